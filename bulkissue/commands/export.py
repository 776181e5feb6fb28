"""
Export: one line for each thing issued in all runs of a job's target, with control totals.

Reads only, takes no lock. It must never leave out a run in silence: what cannot be read is named, and the totals are
then not complete; where they contradict a run's own counts, nothing is written.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from bulkissue.errors import ConservationBroken, ExitCode, StateRefused, UsageRefused
from bulkissue.files import room_for
from bulkissue.job.loading import LoadedJob
from bulkissue.job.target import same_target
from bulkissue.outcomes import KNOWN_BY, Outcome
from bulkissue.results import derivation, issued, tables
from bulkissue.state import run_folder
from bulkissue.state.protocols import RunJournal, TargetMemory
from bulkissue.state.registered import Registered
from bulkissue.state.run_folder import Manifest
from bulkissue.state.store import look_at_journal, store_at

_DAY = re.compile(r"\d{4}-?\d{2}-?\d{2}")


@dataclass(frozen=True, slots=True)
class Period:
    """
    When a thing was sent, so that it belongs in the export: from `since` on, and before `until`.

    Both are UTC as `_bi_sent_at` has it, or empty for no bound. The time of sending is what every issued row has and
    nothing changes afterwards: periods that follow each other leave nothing out and have nothing twice.
    """

    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, since: str | None, until: str | None) -> "Period":
        """
        The period between two dates: each a UTC day, the last one whole, or an ISO 8601 time.

        Raises:
            UsageRefused: One is neither, or they are the wrong way round.
        """
        found = cls(_bound(since, "--from", days=0), _bound(until, "--to", days=1))
        if found.since and found.until and found.since >= found.until:
            raise UsageRefused(f"--from {since} is not before --to {until}")
        return found

    def has(self, sent_at: str) -> bool:
        """Whether a time, as `_bi_sent_at` has it, lies in the period."""
        return self.since <= sent_at and (not self.until or sent_at < self.until)

    def lines(self) -> pl.Expr:
        """Which lines lie in the period."""
        before = pl.lit(value=True) if not self.until else pl.col("sent_at") < self.until
        return (pl.col("sent_at") >= self.since) & before


@dataclass(frozen=True, slots=True)
class RunTotals:
    """
    The control totals of a run.

    Attributes:
        run_id: The run.
        started_at: ISO 8601, UTC.
        rows: Input rows.
        issued: Of these, issued.
        exported: Of these, in the period: lines of the export.
        unknown: Rows that may have been issued, and are no lines.
        how_known: Issued rows by `issued.HOW_KNOWN`.
        ended: Its books are written, and say the same.
        registered: The state folder knows it.
        lost: Its folder is gone, and a person's word stands for it.
    """

    run_id: str
    started_at: str
    rows: int
    issued: int
    exported: int
    unknown: int
    how_known: dict[str, int]
    ended: bool = True
    registered: bool = True
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """A run that may have issued, and cannot be read."""

    run_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What stands in an export: the totals of each run, oldest first, and what is missing."""

    target: str
    period: Period
    runs: list[RunTotals]
    missing: list[Missing]
    parts: tuple[Path, ...]
    schema: pl.Schema

    @property
    def lines(self) -> int:
        """Lines of the export."""
        return sum(run.exported for run in self.runs)

    @property
    def open_runs(self) -> list[RunTotals]:
        """Runs that have not come to their end, and may issue more, or may have."""
        return [run for run in self.runs if not run.ended]

    @property
    def complete(self) -> bool:
        """Whether everything of the period is in it, as far as answers tell: unknown rows are counted beside it."""
        return not self.missing and not self.open_runs

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return ExitCode.OK if self.complete else ExitCode.SETTINGS

    def table(self) -> list[tuple[str | int, ...]]:
        """The control totals as lines, the header first and the sum last."""
        names = ("rows", "issued", "exported", "unknown")
        found: list[tuple[str | int, ...]] = [("run", "started_at", *names, *issued.HOW_KNOWN, "remark")]
        for run in self.runs:
            counts = [getattr(run, name) for name in names]
            counts += [run.how_known.get(how, 0) for how in issued.HOW_KNOWN]
            found.append((run.run_id, run.started_at, *counts, _remark(run)))
        sums = [sum(int(line[place]) for line in found[1:]) for place in range(2, len(found[0]) - 1)]
        return [*found, ("all runs", "", *sums, "" if self.complete else "not complete")]


@contextmanager
def export(loaded: LoadedJob, period: Period, *, beside: Path | None, identifiers: bool = True) -> Iterator[Exported]:
    """
    Everything that the runs of a job's target issued in a period.

    Args:
        loaded: The job; it says which target, and where state and runs are.
        period: When.
        beside: A folder for the lines until they are written, as they name customers; None for the system's own.
        identifiers: Whether the lines name the customers.

    Yields:
        The totals, and Parquet files of the lines that last as long as the block.

    Raises:
        ConservationBroken: A run's journal and its own counts contradict each other.
        StateRefused: There is no state folder, or it cannot be read.
    """
    if store_at(loaded.state_dir).mark() is None:
        raise StateRefused(
            f"there is no state folder {loaded.state_dir}, so nobody knows which runs there were",
            hint="give the job file with which they were started; or restore the folder from a backup",
        )
    with tempfile.TemporaryDirectory(prefix=".bulkissue-export-", dir=beside) as scratch:
        collected = _Collected(loaded, period, Path(scratch), identifiers=identifiers)
        collected.collect()
        schema = pl.Schema(
            (name, kind) for name, kind in issued.SCHEMA.items() if identifiers or name not in issued.IDENTIFYING
        )
        yield Exported(
            target=loaded.job.issues().text(),
            period=period,
            runs=sorted(collected.runs, key=lambda run: run.run_id),
            missing=collected.missing,
            parts=tuple(collected.parts),
            schema=schema,
        )


def write(found: Exported, out: Path, kind: tables.Format) -> None:
    """Write an export to a file, a workbook with its control totals on a second sheet; see `tables.write`."""
    tables.write(out, found.parts, found.schema, kind, beside={"totals": found.table()})


@dataclass(slots=True)
class _Collected:
    """Goes through the runs, one by one, and keeps their lines on the disk."""

    loaded: LoadedJob
    period: Period
    scratch: Path
    identifiers: bool
    runs: list[RunTotals] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)

    def collect(self) -> None:
        state_dir = self.loaded.state_dir
        state = store_at(state_dir).look_at(self.loaded.job.issues())
        entries = {run.run_id: run for run in state.runs()}
        folders = {folder.name: folder for folder in run_folder.list_runs(self.loaded.runs_dir)}
        known = store_at(state_dir).known_runs()
        strangers = {name: folder for name, folder in folders.items() if name not in known}
        names = " ".join(state.names)
        for run_id in sorted({*entries, *strangers}):
            entry = entries.get(run_id)
            if entry is None:
                self._stranger(run_id, strangers[run_id], names)
            elif entry.state == "lost":
                self._of_words(entry, state)
            elif Path(entry.run_dir).is_dir() or run_id in folders:
                folder = Path(entry.run_dir)
                self._tried(run_id, folder if folder.is_dir() else folders[run_id], entry)
            elif entry.state != "open" or entry.journal:  # without a journal it can have sent nothing
                self._is_missing(run_id, entry.started_at, f"its folder {entry.run_dir} is gone")

    def _stranger(self, run_id: str, folder: Path, names: str) -> None:
        """A run that the register does not know, as after a restored backup."""
        try:
            manifest = run_folder.read_manifest(folder)
        except StateRefused as trouble:
            if (folder / "journal.db").exists():
                self._is_missing(run_id, "", trouble.message)
            return
        if same_target(manifest.target, names) and not manifest.rehearsal:
            self._tried(run_id, folder, None)

    def _tried(self, run_id: str, folder: Path, entry: Registered | None) -> None:
        try:
            self._read(folder, entry)
        except StateRefused as trouble:
            self._is_missing(run_id, entry.started_at if entry else "", trouble.message)

    def _is_missing(self, run_id: str, started_at: str, why: str) -> None:
        if not self._later(started_at):
            self.missing.append(Missing(run_id, why))

    def _later(self, started_at: str) -> bool:
        """Whether a run that began then cannot have sent anything in the period."""
        return bool(self.period.until and started_at >= self.period.until)

    def _read(self, folder: Path, entry: Registered | None) -> None:
        manifest = run_folder.read_manifest(folder)
        path = folder / "journal.db"
        if manifest.state == "planned" and not path.exists() and (entry is None or not entry.journal):
            return  # it ended before it could send
        if entry is not None and manifest.run_id != entry.run_id:
            raise StateRefused(f"{folder} is the folder of run {manifest.run_id}")
        run_folder.refuse_changed(folder, manifest)
        journal = look_at_journal(path.parent, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
        try:
            with journal.standing_still():
                self._derive(derivation.Run.of(folder, manifest), manifest, journal, entry)
        finally:
            journal.leave()

    def _derive(self, run: derivation.Run, manifest: Manifest, journal: RunJournal, entry: Registered | None) -> None:
        meta = journal.meta()
        if entry is not None:
            entry.refuse_copy(journal.path, int(meta["commits"]))
        ended = meta["open"] == "0" and manifest.exit_code is not None and manifest.state not in {"planned", "running"}
        ending = derivation.Ending(completed=ended and manifest.stop is None)
        count = issued.Count()
        parts: list[Path] = []
        exported = 0
        for frame in issued.lines(run, manifest.job, journal, ending, count):
            chosen = frame.filter(self.period.lines())
            exported += chosen.height
            if chosen.height:
                parts.append(self._put(chosen, len(self.parts) + len(parts)))
        if ended and count.counts() != manifest.counts:
            if _knows_the_end(entry, meta):
                raise ConservationBroken(
                    f"run {manifest.run_id}: plan and journal give {count.counts()}, {run_folder.MANIFEST} says "
                    f"{manifest.counts}; nothing is exported",
                    hint=f"bulkissue verify {run.folder}",
                )
            ended = False  # killed before it wrote its counts
        self.parts += parts
        self.runs.append(
            RunTotals(
                run_id=manifest.run_id,
                started_at=manifest.started_at,
                rows=count.outcomes.total(),
                issued=count.outcomes[Outcome.SUCCEEDED],
                exported=exported,
                unknown=count.outcomes[Outcome.UNKNOWN],
                how_known=dict(count.how_known),
                ended=ended or self._later(manifest.started_at),
                registered=entry is not None,
            )
        )

    def _of_words(self, entry: Registered, state: TargetMemory) -> None:
        """A run whose folder is lost, and of which a person said whom it issued; it has the time of its start."""
        told = [issued.of_word(said, named, entry.target) for said, named in state.words(entry.run_id)]
        if not told:
            self._is_missing(entry.run_id, entry.started_at, "its folder is lost, and no word of it is kept")
            return
        lines = pl.concat(told).unique(["identifier_type", "identifier"], keep="first", maintain_order=True)
        exported = lines.height if self.period.has(entry.started_at) else 0
        if exported:
            self.parts.append(self._put(lines, len(self.parts)))
        self.runs.append(
            RunTotals(
                run_id=entry.run_id,
                started_at=entry.started_at,
                rows=lines.height,
                issued=lines.height,
                exported=exported,
                unknown=0,
                how_known={"resolve": lines.height},
                lost=True,
            )
        )

    def _put(self, frame: pl.DataFrame, number: int) -> Path:
        frame = frame if self.identifiers else issued.without_identifiers(frame)
        part = self.scratch / f"{number:06}.parquet"
        with room_for(part):
            frame.drop(KNOWN_BY.values()).write_parquet(part)
        return part


def _knows_the_end(entry: Registered | None, meta: dict[str, str]) -> bool:
    """Whether the register has nothing against it that the run's counts are those of its journal as it stands."""
    return entry is None or (entry.state == "settled" and entry.commits in {0, int(meta["commits"])})


def _remark(run: RunTotals) -> str:
    if run.lost:
        return "folder lost; a person's word"
    remarks = [] if run.ended else ["has not come to its end"]
    return "; ".join(remarks + ([] if run.registered else ["not in the register"]))


def _bound(text: str | None, option: str, *, days: int) -> str:
    if text is None:
        return ""
    try:
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=days)
            found = datetime(day.year, day.month, day.day, tzinfo=UTC)
        else:
            found = datetime.fromisoformat(text)
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageRefused(
            f"{option} {text} is neither a day nor a time",
            hint="2026-11-30, or 2026-11-30T18:30:00Z; both in UTC where no other zone is given",
        ) from None
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
