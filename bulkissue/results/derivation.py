"""
What became of every row: a run's input, plan and journal held together, row by row.

Pure: the same input, plan and journal give the same rows, however often and on whatever machine. It must never leave
a row out, or bear with attempts that contradict each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from bulkissue.errors import ConservationBroken
from bulkissue.outcomes import KNOWN_BY, LEDGER_COLUMNS, REASONS, RESULT_FIELDS, Outcome
from bulkissue.state import attempts
from bulkissue.state.protocols import RunJournal
from bulkissue.state.run_folder import Manifest

#: Rows in a piece: whole row groups of input.parquet and plan.parquet.
_SLICE = 1 << 17
_OUTCOME = pl.Enum([outcome.value for outcome in Outcome])

#: What each row has of its own, by the names it has while it is reckoned. The rest is mostly alike for the rows of an
#: attempt.
_OWN = {"row", "compare_key", "_bi_row", "identifier", "got_customer_id", "got_reference", "settled_reference"}
_OWN |= set(KNOWN_BY.values())
#: How the row that was sent for a customer may end so that its duplicates by another identifier may be sent.
_UNISSUED = (Outcome.FAILED, Outcome.NOT_ATTEMPTED, Outcome.REJECTED)
_FIRST_FAILED = "dedupe.first_failed"
_OWN_RESULTS = ("got_customer_id", "got_reference")


@dataclass(frozen=True, slots=True)
class Run:
    """
    A run, as far as its rows are concerned: its folder, what it issues, its input's columns and how many rows.

    And how its job reads national numbers, for history: empty where it has no country code, None where nobody knows.
    """

    folder: Path
    run_id: str
    target: str
    columns: tuple[str, ...]
    rows: int
    country_code: str | None = None
    national_length: int | None = None
    csv_bom: bool = False
    duplicates: Literal["rows", "count"] = "rows"

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "Run":
        """The run in a folder, as its manifest has it."""
        return cls(
            folder,
            manifest.run_id,
            manifest.target,
            manifest.columns,
            manifest.rows,
            manifest.country_code,
            manifest.national_length,
            manifest.csv_bom,
            manifest.duplicates,
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


@dataclass(frozen=True, slots=True)
class Piece:
    """
    Some rows with their outcomes. What the rows of an attempt share stands once: it is reckoned and made text once.

    Attributes:
        cells: The input's columns.
        own: What each row has of its own of `LEDGER_COLUMNS`, its `_bi_place` in the input (from 0) and its
            `_bi_compare_key`, and the columns of `KNOWN_BY` with `_bi_` before them; a line for each row.
        shared: The other columns of `LEDGER_COLUMNS`, a line for each group of rows that have them alike.
        line: For each row its line of `shared`.
    """

    cells: pl.DataFrame
    own: pl.DataFrame
    shared: pl.DataFrame
    line: pl.Series

    def only(self, which: pl.Expr) -> "Piece":
        """The rows for which an expression over the shared columns is true."""
        chosen = self.shared.select(which).to_series()
        if chosen.all():
            return self
        if not chosen.any():
            return Piece(self.cells.clear(), self.own.clear(), self.shared, self.line.clear())
        rows = chosen.gather(self.line)
        return Piece(self.cells.filter(rows), self.own.filter(rows), self.shared, self.line.filter(rows))

    def whole(self) -> pl.DataFrame:
        """All columns: the input's, `LEDGER_COLUMNS`, `_bi_place` and `_bi_compare_key`."""
        together = self.own.hstack(self.shared.select(pl.all().gather(self.line)))
        return self.cells.hstack(together.select(*LEDGER_COLUMNS, "_bi_place", "_bi_compare_key"))


def pieces(run: Run, journal: RunJournal, ending: Ending) -> Iterator[Piece]:
    """
    Every row with its outcome, in input order, some hundred thousand at a time.

    Raises:
        ConservationBroken: A row has no outcome, or attempts that contradict each other; or the journal names rows
            that the plan does not know.
        StateRefused: The journal cannot be read.
    """
    settled = _settlements(journal)
    held = pl.DataFrame(
        [(item.row, item.reason, item.message) for item in journal.held()],
        schema={"row": pl.UInt32, "held_reason": pl.String, "held_message": pl.String},
        orient="row",
    )
    kept = _Kept(journal, settled, held)
    unissued = _unissued_firsts(run, kept, ending)
    sendings = 0
    for start in range(0, run.rows, _SLICE):
        piece, sent = _reckoned_piece(run, kept, ending, start, unissued)
        sendings += sent
        yield piece
    if sendings != (known := journal.rows_sent()):
        journal.marks(run.rows)  # says so where there is no such row
        raise ConservationBroken(f"the journal names {known} rows as sent, the plan knows {sendings} of them")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A run's journal, and what it says of settled rows and of rows held back; a line for each."""

    journal: RunJournal
    settled: pl.DataFrame
    held: pl.DataFrame


def _reckoned_piece(run: Run, kept: _Kept, ending: Ending, start: int, unissued: pl.Series | None) -> tuple[Piece, int]:
    """The piece that begins at a row, and how often its rows were sent."""
    rows = _piece(run.folder / "input.parquet", start)
    plan = _piece(run.folder / "plan.parquet", start).drop("source", "account_id")
    if rows.height != plan.height or rows.is_empty():
        raise ConservationBroken(f"{run.folder}: input.parquet and plan.parquet differ in length")
    if not plan.select(pl.col("row") == pl.int_range(start, start + pl.len())).to_series().all():
        raise ConservationBroken(f"{run.folder}: plan.parquet does not name the input's rows in their order")
    if unissued is not None:
        left = pl.col("first").is_in(unissued.implode()).fill_null(value=False)
        plan = plan.with_columns(
            pl.when(left).then(pl.lit(Outcome.NOT_ATTEMPTED.value, _OUTCOME)).otherwise("outcome").alias("outcome"),
            pl.when(left).then(pl.lit(_FIRST_FAILED)).otherwise("reason").alias("reason"),
            pl.when(left).then(pl.lit(REASONS[_FIRST_FAILED])).otherwise("message").alias("message"),
        )
    plan = plan.drop("first")
    found, sent = _sent(kept.journal, plan)
    # The input's own columns may bear any name: they stay out of the reckoning.
    joined = plan.hstack(rows.select("_bi_source_file", "_bi_row", "_bi_attempts"))
    for beside in (sent, kept.settled, kept.held):
        joined = _beside(joined, beside)
    return _reckoned(rows.select(run.columns), joined, found, run, ending), int(sent["sendings"].sum())


def _unissued_firsts(run: Run, kept: _Kept, ending: Ending) -> pl.Series | None:
    """
    Of the rows that were to be sent for a customer with several identifiers: those that are proven not issued.

    None where no row was. The first may stand behind its duplicates, so it is looked for before any row is given out.
    """
    firsts = pl.scan_parquet(run.folder / "plan.parquet", glob=False).select("first").drop_nulls().unique().collect()
    if firsts.is_empty():
        return None
    wanted = firsts["first"]
    found = []
    for start in sorted({row // _SLICE * _SLICE for row in wanted}):
        piece, _ = _reckoned_piece(run, kept, ending, start, None)
        outcome = piece.shared["_bi_outcome"].cast(pl.String).gather(piece.line)
        found.append(piece.own["_bi_place"].filter(outcome.is_in([one.value for one in _UNISSUED])))
    rows = pl.concat(found)
    return rows.filter(rows.is_in(wanted.implode())).cast(pl.UInt32)


def frames(run: Run, journal: RunJournal, ending: Ending) -> Iterator[pl.DataFrame]:
    """As `pieces`, each as `Piece.whole`."""
    for piece in pieces(run, journal, ending):
        yield piece.whole()


def _piece(path: Path, start: int) -> pl.DataFrame:
    return pl.scan_parquet(path, glob=False).slice(start, _SLICE).collect()


def _beside(rows: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """What was found of some of the rows, each once, beside them, by `row`; `rows` are in order and without a gap."""
    found = found.filter(found["row"].is_between(rows["row"][0], rows["row"][-1]))
    # By place: a join would cost several times as much.
    line = pl.Series([None], dtype=pl.UInt32).new_from_index(0, rows.height)
    line.scatter(found["row"] - rows["row"][0], pl.int_range(found.height, dtype=pl.UInt32, eager=True))
    return rows.hstack(found.drop("row").select(pl.all().gather(line)))


def _sent(journal: RunJournal, plan: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """
    What the journal says of the piece's rows: attempts, and a line for each row that has one.

    Returns:
        As `attempts.read`, each row once, with its last attempt; and `sendings`, how many it has (UInt32).
    """
    bounds = plan.group_by("identifier_type").agg(
        pl.col("batch").min().alias("low"), pl.col("batch").max().alias("high")
    )
    stretches = bounds.select("low", "high").drop_nulls().sort("low").rows()
    found, rows = (
        frame.rename({name: f"got_{name}" for name in RESULT_FIELDS}, strict=False)
        for frame in attempts.read(journal, stretches)
    )
    rows = rows.filter(rows["row"].is_between(plan["row"][0], plan["row"][-1]))
    if rows["row"].n_unique() == rows.height:
        return found, rows.with_columns(pl.lit(1, pl.UInt32).alias("sendings"))
    # Attempts stand in the order they were sent. Only the last one of a row may be without a void.
    final = found["void"].is_null().gather(rows["attempt"])
    merged = (
        rows.with_columns(final.alias("final"))
        .group_by("row", maintain_order=True)
        .agg(pl.all().last(), pl.len().alias("sendings"), pl.col("final").sum().alias("finals"))
    )
    if merged.filter((pl.col("finals") > 1) | ((pl.col("finals") == 1) & ~pl.col("final"))).height:
        raise ConservationBroken(f"{journal.path}: a row was sent again although an earlier attempt was not void")
    return found, merged.drop("final", "finals")


def _settlements(journal: RunJournal) -> pl.DataFrame:
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
            item.text,
            item.reference,
        )
        for item in journal.settlements()
    ]
    return pl.DataFrame(found, schema=schema, orient="row").unique("row", keep="last", maintain_order=True)


def _reckoned(cells: pl.DataFrame, joined: pl.DataFrame, found: pl.DataFrame, run: Run, ending: Ending) -> Piece:
    """What follows for rows from their plan, attempts, settlement and hold, which stand beside each other."""
    for name in _OWN_RESULTS:
        if name not in joined.columns:
            joined = joined.with_columns(found[name].gather(joined["attempt"]))
    told = [name for name in joined.columns if name not in _OWN and joined[name].null_count() < joined.height]
    # Rows of one attempt may lie apart, where the input mixes identifier types: for this they stand together.
    order = joined["attempt"].arg_sort()
    together = joined.select(pl.col(told).gather(order))
    differs = [pl.col(name).ne_missing(pl.col(name).shift()) for name in told]
    first = pl.int_range(pl.len()) == 0
    begins = together.select(pl.any_horizontal(first, *differs)).to_series()
    lines = begins.cast(pl.UInt32).cum_sum() - 1
    line = lines.gather(order.arg_sort())
    heads = joined.select(pl.all().gather(order.filter(begins))).with_columns(
        lines.rle().struct.field("len").alias("rows")
    )
    heads = heads.hstack(found.select(pl.exclude(joined.columns).gather(heads["attempt"])))
    _refuse_contradictions(heads, ending, run)
    own = joined.select(
        pl.col("row").alias("_bi_place"),
        pl.col("compare_key").alias("_bi_compare_key"),
        *(pl.col(name).alias(f"_bi_{name}") for name in KNOWN_BY.values()),
        "_bi_row",
        pl.col("identifier").alias("_bi_identifier"),
        _text("got_customer_id").alias("_bi_customer_id"),
        # What an answer showed of a row that was not issued after all is no proof of anything.
        pl.when(pl.col("settled_outcome").ne_missing(Outcome.FAILED.value))
        .then(pl.coalesce(_text("settled_reference"), _text("got_reference")))
        .alias("_bi_reference"),
    )
    return Piece(cells, own, _final(heads, run, ending), line)


def _refuse_contradictions(heads: pl.DataFrame, ending: Ending, run: Run) -> None:
    sent = pl.col("attempt").is_not_null()
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
        found = heads.filter(where)
        if found.height:
            row = found.select(pl.format("{} row {}", "_bi_source_file", "_bi_row")).item(0, 0)
            raise ConservationBroken(f"run {run.run_id}: {row} {what} ({found['rows'].sum()} such rows)")


def _final(heads: pl.DataFrame, run: Run, ending: Ending) -> pl.DataFrame:
    """The shared columns of a piece."""
    sent = pl.col("attempt").is_not_null()
    lost = sent & pl.col("void").is_null() & pl.col("got_outcome").is_null()
    voided = sent & pl.col("void").is_not_null()
    planned = pl.col("outcome").is_null()
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
    over = pl.when(planned).then("passed_over").str.splitn(":", 2).struct
    kind = pl.col("identifier_type").cast(pl.String)
    preferred, why = over.field("field_0"), over.field("field_1")
    instead = (
        pl.when(preferred == kind)
        .then(pl.format("sent all the same ({})", why))
        .otherwise(pl.format("sent by {}, as the {} cannot be used ({})", kind, preferred, why))
    )
    message = pl.concat_str(pl.when(message != "").then(message), instead, separator="; ", ignore_nulls=True)
    return heads.select(
        pl.lit(run.run_id).alias("_bi_run"),
        pl.lit(run.target).alias("_bi_target"),
        "_bi_source_file",
        outcome.cast(_OUTCOME).alias("_bi_outcome"),
        reason.alias("_bi_reason"),
        message.alias("_bi_message"),
        pl.col("identifier_type").cast(pl.String).alias("_bi_identifier_type"),
        pl.col("batch").alias("_bi_batch"),
        (pl.col("sendings").fill_null(0) + pl.col("_bi_attempts")).alias("_bi_attempts"),
        pl.col("http_status").alias("_bi_http_status"),
        _text("got_code").alias("_bi_code"),
        _text("got_valid_till").alias("_bi_valid_till"),
        _text("request_id").alias("_bi_request_id"),
        _instant("sent_at").alias("_bi_sent_at"),
        _instant("answered_at").alias("_bi_answered_at"),
        "rows",
    )


def _text(name: str) -> pl.Expr:
    """Empty text as an empty cell, which CSV writes without quotes."""
    return pl.when(pl.col(name) != "").then(name)


def _instant(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("ms")).dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")
