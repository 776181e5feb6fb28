"""
Claims: who holds what of a promotion or series, by all that is remembered of it at one moment.

In every occasion, by every name, and also of runs that crashed or are sending just now. It must never overlook a row
that may hold an issue.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from bulkissue.errors import StateRefused
from bulkissue.job.target import Target, parse
from bulkissue.outcomes import Outcome
from bulkissue.results import derivation, ledgers
from bulkissue.service.page import Asked
from bulkissue.state.history import History
from bulkissue.state.protocols import RunJournal, TargetMemory
from bulkissue.state.store import store_at

_ASKED = (pl.col("identifier_type").cast(pl.String), "identifier", pl.col("source", "account_id").fill_null(""))


@dataclass(frozen=True, slots=True)
class OpenRow:
    """
    A row of any run that may hold an issue nobody can name: unknown, or issued by a person's word.

    Its identifier, and the customer's own id where it is known, as digests.
    """

    run: str
    file: str
    number: int
    identifier_type: str
    key: int = field(repr=False)
    customer: int | None = field(repr=False)

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.file} row {self.number} of run {self.run}"


class Claims:
    """
    What is remembered; made by `remembered`.

    Args:
        history: Of all runs.
        state: Of the promotion, for its runs' folders and what persons said of lost ones.
        run_id: The run that asks. Its own unknown rows it knows better.
        blind: A run that may have issued, and of which nothing can be known; empty if there is none.
    """

    def __init__(self, history: History, state: TargetMemory, run_id: str, blind: str) -> None:
        self.blind = blind
        self._issued = history.lines
        self._digests = history.digests
        self._folders = {run.run_id: Path(run.run_dir) for run in state.runs()}
        self._state = state
        self._run_id = run_id
        self._asked: dict[str, dict[tuple[str, int], Asked]] = {}

    def claimed(self, references: set[str]) -> set[str]:
        """Those of the references that a row holds, case-folded."""
        wanted = pl.col("reference").str.to_lowercase().is_in([one.lower() for one in references])
        held = self._issued.filter((pl.col("outcome") == Outcome.SUCCEEDED.value) & wanted)
        return {one.casefold() for one in held.select("reference").collect()["reference"]}

    @cached_property
    def open_rows(self) -> list[OpenRow]:
        """Those of all runs, each identifier once; without the asking run's unknown rows."""
        unknown = pl.col("outcome") == Outcome.UNKNOWN.value
        nameless = (pl.col("outcome") == Outcome.SUCCEEDED.value) & pl.col("reference").is_null()
        columns = ("run", "source_file", "source_row", "identifier_type", "key", "customer")
        once = (
            self._issued.filter((unknown & (pl.col("run") != self._run_id)) | nameless)
            .select(columns)
            .sort(columns[:3])
            .unique("key", keep="first", maintain_order=True)
            .collect()
        )
        return [OpenRow(*values) for values in once.iter_rows()]

    def digest(self, kind: str, key: str) -> int:
        """An identifier, or a customer id (`id`), as open rows have it."""
        return self._digests.of_text(kind, key)

    def asked(self, row: OpenRow, source: str) -> Asked | None:
        """
        How its customer was named when it was sent.

        Args:
            row: One of `open_rows`.
            source: As good a guess as any where the run's folder is gone, and only a person's word tells who it was.

        Returns:
            None where nothing tells it.
        """
        if row.run not in self._asked:
            wanted = [(one.file, one.number) for one in self.open_rows if one.run == row.run]
            folder = self._folders.get(row.run)
            found = how_asked(folder, wanted) if folder is not None else {}
            self._asked[row.run] = found or self._named(row.run, source)
        return self._asked[row.run].get((row.file, row.number))

    def _named(self, run: str, source: str) -> dict[tuple[str, int], Asked]:
        named = self._state.named_by_words(run).select("source_file", "source_row", "identifier_type", "compare_key")
        return {(file, number): Asked(kind, key, source) for file, number, kind, key in named.iter_rows()}


@contextmanager
def remembered(
    run: derivation.Run,
    journal: RunJournal,
    ending: derivation.Ending,
    state_dir: Path,
    names: Iterable[tuple[str, str]],
) -> Iterator[Claims]:
    """
    What is remembered at this moment of a run's promotion or series.

    Args:
        run: The run that asks.
        journal: Its journal.
        ending: How it stands.
        state_dir: The state folder.
        names: Further names of the promotion: id, identifier.
    """
    target = parse(run.target)
    also = [Target(target.environment, target.effect, promotion, identifier) for promotion, identifier in names]
    everything = store_at(state_dir).every_occasion([target, *also])
    # The register before the files: a run that settles meanwhile is then read twice, and none is overlooked.
    runs = everything.runs()
    blind, parts = "", []
    with tempfile.TemporaryDirectory(prefix=".reconcile-", dir=run.folder) as scratch:
        for number, one in enumerate(runs):
            if one.state != "open" or not one.journal:
                continue
            out = Path(scratch) / str(number)
            out.mkdir()
            try:
                if one.run_id == run.run_id:
                    parts += ledgers.history_parts(run, journal, ending, out)
                else:
                    parts += ledgers.journalled_history(Path(one.run_dir), out)
            except StateRefused:
                blind = one.run_id
        yield Claims(everything.issued().with_runs(parts), everything, run.run_id, blind)


def how_asked(folder: Path, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], Asked]:
    """How rows of a run were sent, by file and number; nothing where its folder is gone."""
    if not all((folder / name).exists() for name in ("input.parquet", "plan.parquet")):
        return {}
    rows = pl.LazyFrame(wanted, schema={"_bi_source_file": pl.String, "_bi_row": pl.UInt64}, orient="row")
    places = (
        pl.scan_parquet(folder / "input.parquet", glob=False)
        .select("_bi_source_file", pl.col("_bi_row").cast(pl.UInt64))
        .with_row_index("row")
        .join(rows, on=["_bi_source_file", "_bi_row"], how="inner")
    )
    plan = pl.scan_parquet(folder / "plan.parquet", glob=False).select("row", *_ASKED)
    found = places.join(plan, on="row", how="inner").select("_bi_source_file", "_bi_row", *_ASKED).collect()
    return {(file, number): Asked(*asked) for file, number, *asked in found.iter_rows()}
