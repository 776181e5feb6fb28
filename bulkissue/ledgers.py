"""
The ledgers: every input row once, in one of four files, derived from plan and journal.

Pure: the same input, plan and journal give the same files, however often and on whatever machine.
Writing them is also the proof of conservation: it must never leave a row out, or write one whose
attempts contradict each other.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bulkissue import runfolder
from bulkissue.errors import ConservationBroken
from bulkissue.files import replacing, replacing_path, sha256
from bulkissue.history import HISTORY_SCHEMA
from bulkissue.journal import NEVER_SENT, Attempt, Journal
from bulkissue.outcomes import LEDGER_COLUMNS, LEDGER_OF, REASONS, RESULT_FIELDS, Ledger, Outcome

_SLICE = 250_000
_OUTCOME = pl.Enum([outcome.value for outcome in Outcome])
_NOT_ISSUED = (Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED)

_RESULTS_SCHEMA = pl.Schema(
    {
        "row": pl.UInt32(),
        **{f"got_{name}": pl.String() for name in RESULT_FIELDS},
        "void": pl.String(),
        "http_status": pl.Int64(),
        "request_id": pl.String(),
        "sent_at": pl.Int64(),
        "answered_at": pl.Int64(),
        "attempts": pl.UInt32(),
    }
)


@dataclass(frozen=True, slots=True)
class Ending:
    """
    How the run stands, for the rows that were not sent.

    Attributes:
        completed: Every row had its turn. A row with only void attempts has then failed.
        reason: Otherwise why its turn did not come: a `guard` code.
        message: In words.
    """

    completed: bool
    reason: str = "guard.unfinished"
    message: str = REASONS["guard.unfinished"]


@dataclass(slots=True)
class Books:
    """
    What the ledgers add up to.

    Attributes:
        rows: Rows derived.
        outcomes: Rows by outcome.
        reasons: Rows of the failure and unknown ledgers by reason.
        digests: By ledger file: its `rows` and `sha256`.
        history: Parquet parts of `history.HISTORY_SCHEMA`: who was, or may have been, issued.
    """

    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    digests: dict[str, dict[str, object]] = field(default_factory=dict)
    history: list[Path] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Rows in all, and by outcome: the `counts` of the contract."""
        return {"rows": self.rows, **{outcome.value: self.outcomes[outcome.value] for outcome in Outcome}}

    def failure_reasons(self) -> dict[str, int]:
        """The reasons of the rows that stand in failure and unknown ledgers, most frequent first."""
        return dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True, slots=True)
class Run:
    """What the ledgers of a run are made from."""

    folder: Path
    run_id: str
    target: str
    columns: tuple[str, ...]
    rows: int


def write(run: Run, journal: Journal, ending: Ending, formats: Sequence[str], out: Path) -> Books:
    """
    Write the four ledgers into the folder `out`, and parts of the run's history beside them.

    Returns:
        The books, with each ledger's rows and SHA-256. The caller deletes `history`'s parts.

    Raises:
        ConservationBroken: A row has no outcome, or attempts that contradict each other. No ledger is
            replaced then.
    """
    books = Books()
    with writing(run, out, Ledger) as append:
        for frame in derive(run, journal, ending):
            _count(books, frame)
            _remember(frame, out, books.history)
            append(frame)
        _prove(books, run)
    for ledger in Ledger:
        path = out / f"{ledger}.csv"
        rows = sum(books.outcomes[outcome] for outcome in _outcomes_of(ledger))
        books.digests[path.name] = {"rows": rows, "sha256": sha256(path)}
        if "parquet" in formats:
            as_parquet = path.with_suffix(".parquet")
            with replacing_path(as_parquet) as partial:
                pl.scan_csv(path, infer_schema=False, glob=False).sink_parquet(partial)
            books.digests[as_parquet.name] = {"rows": rows, "sha256": sha256(as_parquet)}
    return books


@contextmanager
def writing(run: Run, out: Path, names: Iterable[Ledger]) -> Iterator[Callable[[pl.DataFrame], None]]:
    """
    The named ledgers in `out`, open to be written; they get their names together, when the block ends well.

    Yields:
        A function that takes frames of `derive` and puts each row where it belongs.
    """
    with ExitStack() as whole:
        files = {ledger: whole.enter_context(replacing(out / f"{ledger}.csv")) for ledger in names}
        header = pl.DataFrame(schema=dict.fromkeys((*run.columns, *LEDGER_COLUMNS), pl.String)).write_csv()
        for file in files.values():
            file.write(header.encode())

        def append(frame: pl.DataFrame) -> None:
            for ledger, file in files.items():
                chosen = frame.filter(pl.col("_bi_outcome").is_in(_outcomes_of(ledger)))
                chosen.select(*run.columns, *LEDGER_COLUMNS).write_csv(file, include_header=False)

        yield append


def history_parts(run: Run, journal: Journal, ending: Ending, out: Path) -> list[Path]:
    """
    Write the rows that were, or may have been, issued as Parquet parts of `history.HISTORY_SCHEMA`, and no ledger.

    Returns:
        The parts, in order; none where nothing was issued. The caller deletes them.
    """
    parts: list[Path] = []
    for frame in derive(run, journal, ending):
        _remember(frame, out, parts)
    return parts


def journalled_history(folder: Path, out: Path) -> list[Path]:
    """
    As `history_parts`, of a run as its folder alone tells it: one that crashed, or one that is sending now.

    Raises:
        StateRefused: Its manifest or its journal cannot be trusted.
    """
    manifest = runfolder.read_manifest(folder)
    run = Run(folder, manifest.run_id, manifest.target, manifest.columns, manifest.rows)
    plan_sha256 = manifest.digests["plan.parquet"]
    journal = Journal.look(folder / "journal.db", run_id=manifest.run_id, plan_sha256=plan_sha256)
    try:
        with journal.standing_still():
            return history_parts(run, journal, Ending(completed=False), out)
    finally:
        journal.leave()


def _remember(frame: pl.DataFrame, out: Path, parts: list[Path]) -> None:
    issued = frame.filter(pl.col("_bi_outcome").is_in([Outcome.SUCCEEDED.value, Outcome.UNKNOWN.value]))
    if issued.is_empty():
        return
    remembered = issued.select(
        identifier_type="_bi_identifier_type",
        compare_key=pl.coalesce("_bi_compare_key", "_bi_identifier"),
        outcome="_bi_outcome",
        run="_bi_run",
        source_file="_bi_source_file",
        source_row="_bi_row",
        customer_id="_bi_customer_id",
        reference="_bi_reference",
        answered_at="_bi_answered_at",
    )
    part = out / f".history-{len(parts):05}.parquet"
    with replacing_path(part) as path:
        remembered.select(pl.col(name).cast(kind) for name, kind in HISTORY_SCHEMA.items()).write_parquet(path)
    parts.append(part)


def derive(run: Run, journal: Journal, ending: Ending) -> Iterator[pl.DataFrame]:
    """
    Every row with its outcome, in input order, some hundred thousand at a time.

    Yields:
        The input's columns, `LEDGER_COLUMNS`, `_bi_place` (the row's place in the input, from 0), `_bi_compare_key`.

    Raises:
        ConservationBroken: See `write`.
    """
    settled = _settlements(journal)
    held = pl.DataFrame(
        [(item.row, item.reason, item.message) for item in journal.held()],
        schema={"row": pl.UInt32, "held_reason": pl.String, "held_message": pl.String},
        orient="row",
    )
    sent_rows = 0
    for start in range(0, run.rows, _SLICE):
        rows = _piece(run.folder / "input.parquet", start)
        plan = _piece(run.folder / "plan.parquet", start)
        if rows.height != plan.height or rows.is_empty():
            raise ConservationBroken(f"{run.folder}: input.parquet and plan.parquet differ in length")
        results = _results(journal, plan)
        sent_rows += results.height
        # The input's own columns may bear any name: they stay out of the reckoning.
        joined = plan.hstack(rows.select(pl.col("^_bi_.*$")))
        for beside in (results, settled, held):
            joined = joined.join(beside, on="row", how="left", maintain_order="left", validate="1:1")
        _refuse_contradictions(joined, ending, run)
        yield rows.select(run.columns).hstack(_final(joined, run, ending))
    if sent_rows != (known := run.rows - journal.marks(run.rows).count(NEVER_SENT)):
        raise ConservationBroken(f"the journal names {known} rows as sent, the plan knows {sent_rows} of them")


def _piece(path: Path, start: int) -> pl.DataFrame:
    return pl.scan_parquet(path, glob=False).slice(start, _SLICE).collect()


def _results(journal: Journal, plan: pl.DataFrame) -> pl.DataFrame:
    """What the journal says of the piece's rows: one line for each row that has an attempt."""
    bounds = plan.group_by("identifier_type").agg(
        pl.col("batch").min().alias("low"), pl.col("batch").max().alias("high")
    )
    first, last = plan["row"][0], plan["row"][-1]
    columns: dict[str, list[object]] = {name: [] for name in _RESULTS_SCHEMA}
    for low, high in bounds.select("low", "high").drop_nulls().sort("low").iter_rows():
        for attempt in journal.attempts((low, high)):
            _extend(columns, attempt)
    frame = pl.DataFrame(columns, schema=_RESULTS_SCHEMA).filter(pl.col("row").is_between(first, last))
    if not frame["row"].is_duplicated().any():
        return frame
    final = pl.col("void").is_null()
    # Attempts stand in the order they were sent. Only the last one of a row may be without a void.
    merged = frame.group_by("row", maintain_order=True).agg(
        pl.exclude("attempts").last(), pl.col("attempts").sum(), final.sum().alias("final"), final.last().alias("ends")
    )
    if merged.filter((pl.col("final") > 1) | ((pl.col("final") == 1) & ~pl.col("ends"))).height:
        raise ConservationBroken(f"{journal.path}: a row was sent again although an earlier attempt was not void")
    return merged.select(_RESULTS_SCHEMA.names())


def _extend(columns: dict[str, list[object]], attempt: Attempt) -> None:
    size = len(attempt.rows)
    columns["row"].extend(attempt.rows)
    for name in RESULT_FIELDS:
        if attempt.results is None:
            value: object = None
        else:
            value = getattr(attempt.results, name)
        columns[f"got_{name}"].extend(value if isinstance(value, list) else [value] * size)
    for name, value in (
        ("void", attempt.void),
        ("http_status", attempt.http_status or None),
        ("request_id", attempt.request_id),
        ("sent_at", attempt.sent_at),
        ("answered_at", attempt.answered_at),
        ("attempts", 1),
    ):
        columns[name].extend([value] * size)


def _settlements(journal: Journal) -> pl.DataFrame:
    schema = {
        "row": pl.UInt32,
        "settled_outcome": pl.String,
        "settled_reason": pl.String,
        "settled_message": pl.String,
        "settled_reference": pl.String,
    }
    found = [
        (
            item.row,
            item.outcome.value,
            item.reason,
            f"{item.message} ({item.settled_by}: {item.evidence})" if item.evidence else item.message,
            item.reference,
        )
        for item in journal.settlements()
    ]
    return pl.DataFrame(found, schema=schema, orient="row").unique("row", keep="last", maintain_order=True)


def _refuse_contradictions(joined: pl.DataFrame, ending: Ending, run: Run) -> None:
    sent = pl.col("attempts").is_not_null()
    planned = pl.col("outcome").is_null()
    unknown = pl.col("void").is_null() & sent & (pl.col("got_outcome").is_null() | (pl.col("got_outcome") == "unknown"))
    broken = {
        "was sent although the plan settles it": sent & ~planned,
        "was issued or may have been, and yet held back": pl.col("held_reason").is_not_null()
        & sent
        & pl.col("void").is_null(),
        "was settled although it was not unknown": pl.col("settled_outcome").is_not_null() & ~unknown,
        "has neither an outcome nor an attempt": planned
        & ~sent
        & pl.col("held_reason").is_null()
        & pl.lit(ending.completed),
    }
    for what, where in broken.items():
        found = joined.filter(where)
        if found.height:
            row = found.select(pl.format("{} row {}", "_bi_source_file", "_bi_row")).item(0, 0)
            raise ConservationBroken(f"run {run.run_id}: {row} {what} ({found.height} such rows)")


def _final(joined: pl.DataFrame, run: Run, ending: Ending) -> pl.DataFrame:
    sent = pl.col("attempts").is_not_null()
    lost = sent & pl.col("void").is_null() & pl.col("got_outcome").is_null()
    voided = sent & pl.col("void").is_not_null()
    unsent = Outcome.FAILED if ending.completed else Outcome.NOT_ATTEMPTED
    tried = pl.lit("crash.no_answer")
    outcome = pl.coalesce(
        pl.col("outcome").cast(pl.String),
        "settled_outcome",
        pl.when(pl.col("held_reason").is_not_null()).then(pl.lit(Outcome.ALREADY_ISSUED.value)),
        "got_outcome",
        pl.when(lost).then(pl.lit(Outcome.UNKNOWN.value)),
        pl.lit(unsent.value),
    )
    reason = pl.coalesce(
        "reason",
        "settled_reason",
        "held_reason",
        "got_reason",
        pl.when(lost).then(tried),
        pl.when(voided & pl.lit(ending.completed)).then("void"),
        pl.lit(ending.reason),
    )
    void_message = pl.col("void").replace_strict(REASONS, default=None, return_dtype=pl.String)
    message = pl.coalesce(
        "message",
        "settled_message",
        "held_message",
        "got_message",
        pl.when(lost).then(pl.lit(REASONS["crash.no_answer"])),
        pl.when(voided & pl.lit(ending.completed)).then(
            pl.format("every attempt was proven not applied; the last: {}", pl.coalesce(void_message, "void"))
        ),
        pl.lit(ending.message),
    )
    return joined.select(
        pl.col("row").alias("_bi_place"),
        pl.col("compare_key").alias("_bi_compare_key"),
        pl.lit(run.run_id).alias("_bi_run"),
        pl.lit(run.target).alias("_bi_target"),
        "_bi_source_file",
        "_bi_row",
        outcome.cast(_OUTCOME).alias("_bi_outcome"),
        reason.alias("_bi_reason"),
        message.alias("_bi_message"),
        pl.col("identifier_type").cast(pl.String).alias("_bi_identifier_type"),
        pl.col("identifier").alias("_bi_identifier"),
        pl.col("batch").alias("_bi_batch"),
        (pl.col("attempts").fill_null(0) + pl.col("_bi_attempts")).alias("_bi_attempts"),
        pl.col("http_status").alias("_bi_http_status"),
        _text("got_code").alias("_bi_code"),
        _text("got_customer_id").alias("_bi_customer_id"),
        # What an answer showed of a row that was not issued after all is no proof of anything.
        pl.when(pl.col("settled_outcome").ne_missing(Outcome.FAILED.value))
        .then(pl.coalesce(_text("settled_reference"), _text("got_reference")))
        .alias("_bi_reference"),
        _text("got_valid_till").alias("_bi_valid_till"),
        _text("request_id").alias("_bi_request_id"),
        _instant("sent_at").alias("_bi_sent_at"),
        _instant("answered_at").alias("_bi_answered_at"),
    )


def _text(name: str) -> pl.Expr:
    """Empty text as an empty cell, which CSV writes without quotes."""
    return pl.when(pl.col(name) != "").then(name)


def _instant(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("ms")).dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")


def _count(books: Books, frame: pl.DataFrame) -> None:
    books.rows += frame.height
    counted = frame.group_by("_bi_outcome", "_bi_reason").len()
    for outcome, reason, rows in counted.iter_rows():
        books.outcomes[outcome] += rows
        if outcome in _NOT_ISSUED or outcome == Outcome.UNKNOWN:
            books.reasons[reason] += rows


def _prove(books: Books, run: Run) -> None:
    total = sum(books.outcomes.values())
    if not books.rows == total == run.rows:
        raise ConservationBroken(
            f"run {run.run_id}: {run.rows} input rows, {books.rows} derived, {total} in the ledgers"
        )


def _outcomes_of(ledger: Ledger) -> list[str]:
    return [outcome.value for outcome, place in LEDGER_OF.items() if place is ledger]
