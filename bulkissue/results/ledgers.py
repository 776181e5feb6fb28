"""
The ledgers: every input row once, in one of four files, as `derivation` gives it.

Writing them is also the proof of conservation. No ledger may take its name before all rows have been counted.
"""

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import polars as pl

from bulkissue.errors import ConservationBroken
from bulkissue.files import replacing, replacing_path, sha256
from bulkissue.outcomes import KNOWN_BY, LEDGER_COLUMNS, LEDGER_OF, Ledger, Outcome
from bulkissue.results import workbooks
from bulkissue.results.derivation import Ending, Piece, Run, pieces
from bulkissue.state import run_folder
from bulkissue.state.history import RUN_SCHEMA
from bulkissue.state.protocols import RunJournal
from bulkissue.state.store import look_at_journal

#: Rows in a history part, at least.
_PART = 1 << 20
#: Rows of the duplicate ledger where the job wants a count of the others.
MOST_DUPLICATES = 1000
_NOT_ISSUED = (Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED)
#: As polars does it where cells are quoted if need be. Empty text is not null.
_TO_BE_QUOTED = [",", '"', "\r", "\n"]


@dataclass(slots=True)
class Books:
    """
    What the ledgers add up to.

    Attributes:
        rows: Rows derived.
        outcomes: Rows by outcome.
        reasons: Rows of the failure and unknown ledgers by reason.
        digests: By ledger file: its `rows` and `sha256`.
        history: Parquet parts of `history.RUN_SCHEMA`: who was, or may have been, issued.
        in_doubt: Rows left out because an earlier run may have issued them.
        left_out: Rows that the duplicate ledger leaves out, by outcome and reason.
    """

    rows: int = 0
    in_doubt: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    digests: dict[str, dict[str, object]] = field(default_factory=dict)
    history: list[Path] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """Rows in all, and by outcome: the `counts` of the contract."""
        return {"rows": self.rows, **{outcome.value: self.outcomes[outcome.value] for outcome in Outcome}}

    def failure_reasons(self) -> dict[str, int]:
        """The reasons of the rows that stand in failure and unknown ledgers, most frequent first."""
        return dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0])))


def write(run: Run, journal: RunJournal, ending: Ending, formats: Sequence[str], out: Path) -> Books:
    """
    Write the four ledgers into the folder `out`, and parts of the run's history beside them.

    Returns:
        The books, with each ledger's rows and SHA-256. The caller deletes `history`'s parts.

    Raises:
        ConservationBroken: A row has no outcome, or attempts that contradict each other. No ledger is
            replaced then.
    """
    books, memory = Books(), _Memory(run, out)
    with writing(run, out, Ledger) as append:
        for piece in pieces(run, journal, ending):
            _count(books, piece)
            memory.add(piece)
            append(_without_most_duplicates(books, piece) if run.duplicates == "count" else piece)
        _prove(books, run)
    books.history = memory.flush()
    for ledger in Ledger:
        path = out / f"{ledger}.csv"
        rows = sum(books.outcomes[outcome] for outcome in _outcomes_of(ledger))
        rows -= books.left_out.total() if ledger is Ledger.DUPLICATE else 0
        books.digests[path.name] = {"rows": rows, "sha256": sha256(path)}
        if "parquet" in formats:
            as_parquet = path.with_suffix(".parquet")
            with replacing_path(as_parquet) as partial:
                pl.scan_csv(path, infer_schema=False, glob=False).sink_parquet(partial)
            books.digests[as_parquet.name] = {"rows": rows, "sha256": sha256(as_parquet)}
        if "xlsx" in formats:
            for written in workbooks.write(path, rows):
                books.digests[written.path.name] = {"rows": written.rows, "sha256": sha256(written.path)}
    return books


@contextmanager
def writing(run: Run, out: Path, names: Iterable[Ledger]) -> Iterator[Callable[[Piece], None]]:
    """
    The named ledgers in `out`, open to be written; they get their names together, when the block ends well.

    Yields:
        A function that puts each row of a piece where it belongs.
    """
    with ExitStack() as whole:
        files = {ledger: whole.enter_context(replacing(out / f"{ledger}.csv")) for ledger in names}
        header = pl.DataFrame(schema=dict.fromkeys((*run.columns, *LEDGER_COLUMNS), pl.String)).write_csv()
        for file in files.values():
            file.write((codecs.BOM_UTF8 if run.csv_bom else b"") + header.encode())
            file.flush()  # polars writes to the descriptor itself, which costs half of writing through Python

        def append(piece: Piece) -> None:
            for ledger, file in files.items():
                chosen = piece.only(pl.col("_bi_outcome").is_in(_outcomes_of(ledger)))
                if chosen.line.len():
                    text_of(chosen).write_csv(file, include_header=False, quote_style="never")

        yield append


def text_of(piece: Piece) -> pl.DataFrame:
    """As a ledger has it: cells of CSV, quoted where that is needed; shared ones that touch are one cell."""
    texts = [_quoted(piece.cells[name]) for name in piece.cells.columns]
    for own, names in groupby(LEDGER_COLUMNS, lambda name: name in piece.own.columns):
        if own:
            texts += [_quoted(piece.own[name]) for name in names]
        else:
            parts = [_quoted(piece.shared[name].cast(pl.String)).fill_null("") for name in names]
            texts.append(pl.select(pl.concat_str(parts, separator=",")).to_series().gather(piece.line))
    return pl.DataFrame([text.alias(f"{place}") for place, text in enumerate(texts)])


def _quoted(cells: pl.Series) -> pl.Series:
    """Text as a CSV file has it; null stays null."""
    if cells.dtype != pl.String:
        return cells
    # Most columns need no quotes anywhere, and one look through all of their text costs a third of a look at each cell.
    text = cells.str.join().item()
    if not any(mark in text for mark in _TO_BE_QUOTED) and not (cells == "").any():
        return cells
    special = cells.str.contains_any(_TO_BE_QUOTED) | (cells == "")
    quoted = pl.format('"{}"', cells.str.replace_all('"', '""', literal=True))
    return pl.select(pl.when(special).then(quoted).otherwise(cells)).to_series()


def history_parts(run: Run, journal: RunJournal, ending: Ending, out: Path) -> list[Path]:
    """
    Write the rows that were, or may have been, issued as Parquet parts of `history.RUN_SCHEMA`, and no ledger.

    Returns:
        The parts, in order; none where nothing was issued. The caller deletes them.
    """
    memory = _Memory(run, out)
    for piece in pieces(run, journal, ending):
        memory.add(piece)
    return memory.flush()


def journalled_history(folder: Path, out: Path) -> list[Path]:
    """
    As `history_parts`, of a run as its folder alone tells it: one that crashed, or one that is sending now.

    Raises:
        StateRefused: Its manifest or its journal cannot be trusted.
    """
    manifest = run_folder.read_manifest(folder)
    run = Run.of(folder, manifest)
    plan_sha256 = manifest.digests["plan.parquet"]
    journal = look_at_journal(folder, run_id=manifest.run_id, plan_sha256=plan_sha256)
    try:
        with journal.standing_still():
            return history_parts(run, journal, Ending(completed=False), out)
    finally:
        journal.leave()


@dataclass(slots=True)
class _Memory:
    """Collects who was, or may have been, issued; `flush` writes it down and returns where all of it stands."""

    run: Run
    out: Path
    parts: list[Path] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        issued = piece.only(pl.col("_bi_outcome").is_in([Outcome.SUCCEEDED.value, Outcome.UNKNOWN.value]))
        if not issued.line.len():
            return
        shared = {"identifier_type": "_bi_identifier_type", "outcome": "_bi_outcome", "run": "_bi_run"}
        shared |= {"source_file": "_bi_source_file", "answered_at": "_bi_answered_at"}
        columns = {
            **{name: issued.shared[column].gather(issued.line) for name, column in shared.items()},
            "compare_key": issued.own.select(pl.coalesce("_bi_compare_key", "_bi_identifier")).to_series(),
            "source_row": issued.own["_bi_row"],
            "customer_id": issued.own["_bi_customer_id"],
            "reference": issued.own["_bi_reference"],
            **{name: issued.own[f"_bi_{name}"] for name in KNOWN_BY.values()},
        }
        read = {"country_code": self.run.country_code, "national_length": self.run.national_length}
        lines = issued.line.len()
        columns |= {
            name: pl.Series([value], dtype=RUN_SCHEMA[name]).new_from_index(0, lines) for name, value in read.items()
        }
        self.frames.append(pl.DataFrame([columns[name].cast(kind).alias(name) for name, kind in RUN_SCHEMA.items()]))
        if sum(frame.height for frame in self.frames) >= _PART:
            self.flush()

    def flush(self) -> list[Path]:
        if self.frames:
            part = self.out / f".history-{len(self.parts):05}.parquet"
            with replacing_path(part) as path:
                pl.concat(self.frames).write_parquet(path, compression="zstd", compression_level=1, statistics=False)
            self.parts.append(part)
            self.frames = []
        return self.parts


def _count(books: Books, piece: Piece) -> None:
    books.rows += piece.line.len()
    counted = piece.shared.group_by("_bi_outcome", "_bi_reason").agg(pl.col("rows").sum())
    for outcome, reason, rows in counted.iter_rows():
        books.outcomes[outcome] += rows
        books.in_doubt += rows if reason == "dedupe.unknown" else 0
        if outcome in _NOT_ISSUED or outcome == Outcome.UNKNOWN:
            books.reasons[reason] += rows


def _without_most_duplicates(books: Books, piece: Piece) -> Piece:
    """What of a piece the ledgers have where the duplicate ledger has its first rows only; notes what it leaves out."""
    chosen = piece.shared["_bi_outcome"].is_in(_outcomes_of(Ledger.DUPLICATE)).gather(piece.line)
    before = sum(books.outcomes[outcome] for outcome in _outcomes_of(Ledger.DUPLICATE)) - int(chosen.sum())
    left_out = chosen & (chosen.cast(pl.UInt32).cum_sum() + before > MOST_DUPLICATES)
    if not left_out.any():
        return piece
    counted = piece.shared[piece.line.filter(left_out)].group_by("_bi_outcome", "_bi_reason").len()
    for outcome, reason, rows in counted.iter_rows():
        books.left_out[outcome, reason] += rows
    kept = ~left_out
    return Piece(piece.cells.filter(kept), piece.own.filter(kept), piece.shared, piece.line.filter(kept))


def _prove(books: Books, run: Run) -> None:
    total = sum(books.outcomes.values())
    if not books.rows == total == run.rows:
        raise ConservationBroken(
            f"run {run.run_id}: {run.rows} input rows, {books.rows} derived, {total} in the ledgers"
        )


def _outcomes_of(ledger: Ledger) -> list[str]:
    return [outcome.value for outcome, place in LEDGER_OF.items() if place is ledger]
