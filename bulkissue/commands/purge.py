"""
Purge: the personal data of settled runs goes when its time has come.

It must never touch a run of which anything is still to be found out or sent, and leaves what proves the books and what
prevents a second issue.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bulkissue.commands import rehearsal
from bulkissue.errors import StateRefused, UsageRefused
from bulkissue.job.loading import LoadedJob
from bulkissue.job.target import parse
from bulkissue.outcomes import Outcome
from bulkissue.plan.rows import known_by_row
from bulkissue.results import redaction
from bulkissue.results.redaction import Gone
from bulkissue.state import run_folder
from bulkissue.state.run_folder import Manifest, new_run_id
from bulkissue.state.store import look_at_journal, store_at


@dataclass(frozen=True, slots=True)
class Purged:
    """A run whose personal data was removed, or would be: its id, its rows, and the bytes of its folder."""

    run_id: str
    rows: int
    size: int
    rehearsal: bool


def purge(loaded: LoadedJob, older_than: timedelta | None, *, dry_run: bool) -> list[Purged]:
    """
    Remove the personal data of the settled runs of a job's state folder, whatever their target; harmless again.

    A rehearsal, of which nothing has to be remembered, goes as a whole.

    Args:
        loaded: The job: its state folder, and its `runs_dir`.
        older_than: How long ago a run must have ended; `[output] keep_days` if left out.
        dry_run: Only say which.

    Raises:
        UsageRefused: Neither says how long they are kept.
        StateRefused: There is no state folder, or a run's books cannot be read.
        TargetLocked: A run holds a target.
    """
    keep_days = loaded.job.output.keep_days
    if older_than is None and keep_days is None:
        raise UsageRefused(
            "nothing says how long personal data is kept", hint="--older-than 90d, or [output] keep_days = 90"
        )
    before = datetime.now(UTC) - (timedelta(days=keep_days or 0) if older_than is None else older_than)
    store_at(loaded.state_dir).require()
    done = []
    for folder in folders_of(loaded):
        if redaction.is_halfway(folder) and not dry_run:
            redaction.finish(folder)
        try:
            manifest = run_folder.read_manifest(folder)
        except StateRefused:
            continue  # it sent nothing, or is for a person to look at
        if not _is_due(manifest, before):
            continue
        done.append(Purged(manifest.run_id, manifest.rows, run_folder.size_of(folder), manifest.rehearsal))
        if not dry_run:
            _purge(loaded, folder, manifest)
    return done


def folders_of(loaded: LoadedJob) -> Iterator[Path]:
    """Every run folder of a job's state folder and of its `runs_dir`, oldest first, each once."""
    registered = [Path(run.run_dir) for run in store_at(loaded.state_dir).runs()]
    found = {folder.resolve(): folder for folder in (*registered, *run_folder.list_runs(loaded.runs_dir))}
    yield from sorted((folder for folder in found.values() if folder.is_dir()), key=lambda folder: folder.name)


def _is_due(manifest: Manifest, before: datetime) -> bool:
    settled = manifest.state == "completed" and not manifest.counts.get(Outcome.UNKNOWN)
    if manifest.finished_at is None or manifest.purged_at or not (settled or manifest.rehearsal):
        return False
    return datetime.fromisoformat(manifest.finished_at) < before


def _purge(loaded: LoadedJob, folder: Path, manifest: Manifest) -> None:
    if manifest.rehearsal:
        rehearsal.forget(manifest)
        shutil.rmtree(folder)
        return
    state_dir = Path(manifest.state_dir) if Path(manifest.state_dir).is_dir() else loaded.state_dir
    locked = store_at(state_dir).locked(parse(manifest.target), new_run_id())
    with locked as state, run_folder.run_locked(folder, manifest.run_id):
        run_folder.refuse_changed(folder, manifest)
        remembered = state.issued(only=manifest.run_id).lines
        known = known_of_settled(folder, manifest)
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        redaction.redact(folder, manifest, Gone(None, known, {}, "purge", at), remembered, state.digests)


def known_of_settled(folder: Path, manifest: Manifest) -> dict[int, list[str]]:
    """What the customers of rows are known by that were settled afterwards: words were written about them."""
    journal = look_at_journal(folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    try:
        rows = sorted({one.row for one in journal.settlements()})
    finally:
        journal.leave()
    return known_by_row(folder / "plan.parquet", rows) if rows else {}
