"""
What a run issued: one line for each thing that was given, and how that is known.

Pure, and derived from plan and journal as the ledgers are. It must never take an edited file's word for an issue, nor
count a row as issued that is unknown.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from bulkissue.job.target import parse
from bulkissue.outcomes import KNOWN_BY, Outcome
from bulkissue.results.derivation import Ending, Piece, Run, pieces
from bulkissue.state.history import RUN_SCHEMA
from bulkissue.state.protocols import RunJournal

#: A line of an export. `how_known`: `answer` (the service's own answer has the proof), `reconcile` (read back) or
#: `resolve` (a person's word: `said_by`, `evidence`). `settled_at`: when that was found out. Times are UTC, ISO 8601.
SCHEMA = pl.Schema(
    {
        "run": pl.String(),
        "job": pl.String(),
        "environment": pl.String(),
        "effect": pl.String(),
        "promotion_id": pl.String(),
        "promo_identifier": pl.String(),
        "series_id": pl.String(),
        "occasion": pl.String(),
        "source_file": pl.String(),
        "row": pl.UInt64(),
        "identifier_type": pl.String(),
        "identifier": pl.String(),
        "customer_id": pl.String(),
        "reference": pl.String(),
        "valid_till": pl.String(),
        "sent_at": pl.String(),
        "answered_at": pl.String(),
        "request_id": pl.String(),
        "how_known": pl.String(),
        "said_by": pl.String(),
        "evidence": pl.String(),
        "settled_at": pl.String(),
    }
)
#: The columns that tell who a customer is.
IDENTIFYING = ("identifier", "customer_id")
HOW_KNOWN = ("answer", "reconcile", "resolve")
_HOW_OF = {"reconcile.issued": "reconcile", "resolve.issued": "resolve"}
#: What stands in a text instead of an identifier.
_MASK = "…"


@dataclass(slots=True)
class Count:
    """What a run's rows came to, by outcome; and its issued ones by how that is known."""

    outcomes: Counter[str] = field(default_factory=Counter)
    how_known: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """Rows in all, and by outcome, as a manifest has them."""
        return {"rows": self.outcomes.total(), **{outcome.value: self.outcomes[outcome.value] for outcome in Outcome}}


def lines(run: Run, job: str, journal: RunJournal, ending: Ending, count: Count) -> Iterator[pl.DataFrame]:
    """
    What a run issued, in input order, some hundred thousand rows of input at a time.

    Args:
        run: The run.
        job: The job's name.
        journal: The run's journal.
        ending: How the run stands.
        count: Counts every row of the run, issued or not.

    Yields:
        Lines of `SCHEMA`, and the columns of `KNOWN_BY`: by which other identifiers the customer is known.

    Raises:
        ConservationBroken: Plan and journal contradict each other.
        StateRefused: The journal cannot be read.
    """
    settled = _settlements(journal)
    for piece in pieces(run, journal, ending):
        for outcome, rows in piece.shared.group_by("_bi_outcome").agg(pl.col("rows").sum()).iter_rows():
            count.outcomes[outcome] += rows
        issued = piece.only(pl.col("_bi_outcome") == Outcome.SUCCEEDED.value)
        if issued.line.len():
            frame = _lines(issued, settled, run.target, job)
            count.how_known.update(dict(frame["how_known"].value_counts().iter_rows()))
            yield frame


def of_word(said: dict[str, object], named: pl.DataFrame, target: str) -> pl.DataFrame:
    """
    What a run whose folder is lost issued, by a person's word.

    Args:
        said: The word, as the state folder keeps it: `by`, `evidence`, `at`.
        named: The customers it names, `history.RUN_SCHEMA`.
        target: The run's target, as in `_bi_target`.

    Returns:
        As `lines`. No proof and no time of sending is known.
    """
    found = named.select(
        "run",
        "source_file",
        pl.col("source_row").alias("row"),
        "identifier_type",
        pl.col("compare_key").alias("identifier"),
        "customer_id",
        "reference",
        *KNOWN_BY.values(),
        pl.lit("resolve").alias("how_known"),
        pl.lit(str(said["by"])).alias("said_by"),
        pl.lit(str(said["evidence"])).alias("evidence"),
        pl.lit(str(said["at"])).alias("settled_at"),
    )
    return _whole(found, target, "")


def without_identifiers(frame: pl.DataFrame) -> pl.DataFrame:
    """
    Lines without the columns of `IDENTIFYING`.

    What a person typed as evidence stays, but for the identifiers by which the row's own customer is known.
    """
    if frame["evidence"].null_count() == frame.height:
        return frame.drop(IDENTIFYING)
    names = ["evidence", *IDENTIFYING, *KNOWN_BY.values()]
    evidence = [_masked(text, known) for text, *known in frame.select(names).iter_rows()]
    return frame.with_columns(pl.Series("evidence", evidence, pl.String)).drop(IDENTIFYING)


def _masked(text: str | None, known: list[str | None]) -> str | None:
    for identifier in sorted(filter(None, known), key=len, reverse=True) if text else ():
        text = (text or "").replace(identifier, _MASK)
    return text


def _lines(issued: Piece, settled: pl.DataFrame, target: str, job: str) -> pl.DataFrame:
    shared = {"run": "_bi_run", "source_file": "_bi_source_file", "identifier_type": "_bi_identifier_type"}
    shared |= {name: f"_bi_{name}" for name in ("valid_till", "sent_at", "answered_at", "request_id")}
    how = pl.col("_bi_reason").replace_strict(_HOW_OF, default="answer", return_dtype=pl.String).alias("how_known")
    together = issued.own.hstack(
        issued.shared.select(*(pl.col(theirs).alias(ours) for ours, theirs in shared.items()), how).select(
            pl.all().gather(issued.line)
        )
    )
    found = together.join(settled, left_on="_bi_place", right_on="place", how="left", maintain_order="left")
    after = pl.col("how_known") != "answer"
    return _whole(
        found.select(
            *shared,
            "how_known",
            pl.col("_bi_row").alias("row"),
            pl.col("_bi_identifier").alias("identifier"),
            pl.col("_bi_customer_id").alias("customer_id"),
            pl.col("_bi_reference").alias("reference"),
            *(pl.col(f"_bi_{name}").alias(name) for name in KNOWN_BY.values()),
            *(pl.when(after).then(name).alias(name) for name in ("said_by", "evidence", "settled_at")),
        ),
        target,
        job,
    )


def _whole(found: pl.DataFrame, target: str, job: str) -> pl.DataFrame:
    """Some of the columns of `SCHEMA`, filled up with what is alike for all lines of a run."""
    about = parse(target)
    alike = {"job": job or None} | {
        name: getattr(about, name) or None
        for name in ("environment", "effect", "promotion_id", "promo_identifier", "series_id", "occasion")
    }
    missing = {name: None for name in SCHEMA if name not in found.columns} | alike
    filled = found.with_columns(pl.lit(value, pl.String).alias(name) for name, value in missing.items())
    known = {name: RUN_SCHEMA[name] for name in KNOWN_BY.values()}
    return filled.select(pl.col(name).cast(kind) for name, kind in {**SCHEMA, **known}.items())


def _settlements(journal: RunJournal) -> pl.DataFrame:
    """What was found out of a row last, by its place in the input."""
    schema = {"place": pl.UInt32, "said_by": pl.String, "evidence": pl.String, "settled_at": pl.Int64}
    found = [(one.row, one.settled_by, one.evidence or None, one.at) for one in journal.settlements()]
    last = pl.DataFrame(found, schema=schema, orient="row").unique("place", keep="last", maintain_order=True)
    instant = pl.col("settled_at").cast(pl.Datetime("ms")).dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")
    return last.with_columns(instant.alias("settled_at"))
