"""
Which rows of a run are read back: the unknown ones, a sample of the settled, and the proven successes beside which they
are judged; each with what is needed to ask the service about its customer.

Reads a run's plan and journal, and nothing else. It must never leave out an unknown row.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bulkissue.job.model import Job
from bulkissue.outcomes import Outcome
from bulkissue.results import derivation
from bulkissue.service.page import Asked
from bulkissue.settle.evidence import Sent
from bulkissue.state.protocols import RunJournal

#: Known successes that are looked up before "nothing is there" is believed.
MOST_CONTROLS = 3
_PROVEN = "answer.proof"
_PICKED = (
    "_bi_place",
    "_bi_source_file",
    "_bi_row",
    "_bi_outcome",
    "_bi_reason",
    "_bi_identifier_type",
    "_bi_identifier",
    "_bi_compare_key",
    "_bi_reference",
    "_bi_sent_at",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was sent, as ledgers name it, with what is needed to read it back."""

    place: int
    file: str
    number: int
    outcome: str
    reason: str
    key: str = field(repr=False)
    asked: Asked
    sent: Sent

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.file} row {self.number}"


@dataclass(frozen=True, slots=True)
class Case:
    """
    A run that is to be read back, its target's lock held.

    Attributes:
        run: The run.
        journal: Its journal.
        ending: How it stands.
        job: Its job.
        state_dir: Where all runs of its target are remembered.
    """

    run: derivation.Run
    journal: RunJournal
    ending: derivation.Ending
    job: Job
    state_dir: Path


def survey(case: Case) -> tuple[list[Row], dict[tuple[str, str], list[Row]]]:
    """The run's unknown rows, and its latest proven successes for each kind of question."""
    unknown, latest = [], []
    plan = pl.scan_parquet(case.run.folder / "plan.parquet", glob=False).select("row", "source")
    for frame in derivation.frames(case.run, case.journal, case.ending):
        picked = frame.select(_PICKED)
        unknown.append(picked.filter(pl.col("_bi_outcome") == Outcome.UNKNOWN.value))
        proven = picked.filter((pl.col("_bi_outcome") == Outcome.SUCCEEDED.value) & (pl.col("_bi_reason") == _PROVEN))
        sources = plan.slice(frame["_bi_place"][0], frame.height).collect()
        latest.append(proven.join(sources, left_on="_bi_place", right_on="row", how="left"))
        latest = [_latest(pl.concat(latest))]
    controls = defaultdict(list)
    for row in _rows(case, latest[0].drop("source")) if latest else []:
        controls[row.asked.kind].append(row)
    return (_rows(case, pl.concat(unknown)) if unknown else []), dict(controls)


def _latest(proven: pl.DataFrame) -> pl.DataFrame:
    ordered = proven.sort("_bi_sent_at", "_bi_place", descending=True)
    return (
        ordered.group_by("_bi_identifier_type", "source", maintain_order=True)
        .head(MOST_CONTROLS)
        .select(proven.columns)
    )


def sample_of(case: Case, most: int) -> list[Row]:
    """So many succeeded and so many failed rows, spread evenly over the run: the same each time."""
    sent = pl.col("_bi_sent_at").is_not_null()
    which = {
        Outcome.SUCCEEDED: sent & pl.col("_bi_reference").is_not_null(),
        Outcome.FAILED: sent,
    }
    places: dict[Outcome, list[pl.Series]] = {outcome: [] for outcome in which}
    for frame in derivation.frames(case.run, case.journal, case.ending):
        for outcome, where in which.items():
            places[outcome].append(frame.filter((pl.col("_bi_outcome") == outcome.value) & where)["_bi_place"])
    chosen = set()
    for series in places.values():
        candidates = pl.concat(series) if series else pl.Series(dtype=pl.UInt32)
        count = min(most, candidates.len())
        chosen |= {candidates[number * candidates.len() // count] for number in range(count)}
    picked = [
        frame.select(_PICKED).filter(pl.col("_bi_place").is_in(list(chosen)))
        for frame in derivation.frames(case.run, case.journal, case.ending)
    ]
    return _rows(case, pl.concat(picked)) if picked else []


def _rows(case: Case, frame: pl.DataFrame) -> list[Row]:
    """Rows with what is needed to read them back; `frame` has the columns of `_PICKED`."""
    wanted = set(frame["_bi_place"].to_list())
    if not wanted:
        return []
    times: dict[int, tuple[int, int]] = {}
    for attempt in case.journal.attempts():
        for place in wanted.intersection(attempt.rows):
            first, last = times.get(place, (attempt.sent_at, attempt.sent_at))
            times[place] = min(first, attempt.sent_at), max(last, attempt.sent_at, attempt.answered_at or 0)
    plan = pl.scan_parquet(case.run.folder / "plan.parquet", glob=False).filter(pl.col("row").is_in(list(wanted)))
    how = plan.select("row", "source", "account_id").collect()
    rows = []
    for line in frame.join(how, left_on="_bi_place", right_on="row", how="left").iter_rows(named=True):
        place, identifier = line["_bi_place"], line["_bi_identifier"]
        rows.append(
            Row(
                place,
                line["_bi_source_file"],
                line["_bi_row"],
                line["_bi_outcome"],
                line["_bi_reason"],
                line["_bi_compare_key"] or identifier,
                Asked(line["_bi_identifier_type"], identifier, line["source"] or "", line["account_id"] or ""),
                Sent(*times[place], line["_bi_reference"] or ""),
            )
        )
    return rows
