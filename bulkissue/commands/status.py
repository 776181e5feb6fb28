"""
Status: where a run stands, read from its plan and journal, also while another process writes them.

Reads only. It must never take the target's lock or touch the journal's WAL.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bulkissue.errors import StateRefused
from bulkissue.exchange import PaceState
from bulkissue.job.loading import load
from bulkissue.job.target import parse
from bulkissue.outcomes import Outcome
from bulkissue.plan.plan import load as load_plan
from bulkissue.state import run_folder
from bulkissue.state.entries import PACE_CHANGED
from bulkissue.state.protocols import RunJournal
from bulkissue.state.run_folder import Manifest
from bulkissue.state.store import look_at_journal, store_at

_RATE_WINDOW_MS = 60_000
#: Seconds between two looks at a run, and how many times as long as a look takes they are at least.
_LOOK_SECONDS, _LOOK_SHARE = 1.0, 10.0
#: What a manifest says while a process works on the run, or after it was killed.
_NOT_SETTLED = ("planned", "running")


@dataclass(frozen=True, slots=True)
class Status:
    """
    Where a run stands.

    Attributes:
        manifest: As `run.json` says.
        state: The manifest's, or `interrupted` where it says `running` and no process is.
        counts: Rows in all and by outcome, as far as they are known; the rest is `not_attempted`.
        to_send: Rows the plan sends.
        requests: Batches sent at least once.
        planned_requests: Batches the plan has.
        attempts: Sendings.
        waits: How often the service asked to wait.
        waited_seconds: For how long, in all.
        rows_per_minute: Answered, in the last minute of sending or since it began.
        reasons: Of this session's rows that did not succeed, by reason.
        seconds_left: At that rate; None where it cannot be said.
        pace: How fast it is sending, and why not faster; None where it is not, or has no answer yet.
    """

    manifest: Manifest
    state: run_folder.State
    counts: dict[str, int]
    to_send: int
    requests: int
    planned_requests: int
    attempts: int
    waits: int
    waited_seconds: float
    rows_per_minute: float
    reasons: dict[str, int]
    seconds_left: float | None
    pace: PaceState | None


def read(folder: Path) -> Status:
    """
    Where the run stands.

    Raises:
        StateRefused: Its manifest or journal cannot be trusted.
    """
    manifest, state = _standing(folder)
    job = load(folder / "job.toml", flags={}, environ={}).job
    drawn = load_plan(folder / "plan.parquet", job)
    answered: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    waits = 0
    rate = waited = 0.0
    requests = attempts = 0
    pace = None
    try:
        journal = look_at_journal(folder, run_id=manifest.run_id)
    except StateRefused:
        if (folder / "journal.db").exists():
            raise
        journal = None  # between plan and journal: nothing was sent
    if journal is not None:
        try:
            requests, attempts = journal.requests_and_attempts()
            rate = _count(journal, answered, reasons, died=state == "interrupted")
            for event in journal.events():
                if event.name == "service.throttled":
                    waits += 1
                    waited += float(str(event.detail["seconds"]))
                elif event.name == PACE_CHANGED and state == "running":
                    pace = msgspec.convert(event.detail, PaceState)
        finally:
            journal.leave()
    counts = manifest.counts
    if not counts or manifest.state == "running":
        counts = {"rows": manifest.rows, **{outcome.value: drawn.outcomes.get(outcome, 0) for outcome in Outcome}}
        for outcome, rows in answered.items():
            counts[outcome] += rows
        counts[Outcome.NOT_ATTEMPTED] += drawn.to_send - answered.total()
    left = drawn.to_send - answered.total()
    return Status(
        manifest=manifest,
        state=state,
        counts=counts,
        to_send=drawn.to_send,
        requests=requests,
        planned_requests=drawn.requests,
        attempts=attempts,
        waits=waits,
        waited_seconds=waited,
        rows_per_minute=round(rate, 1),
        reasons=dict(reasons.most_common()),
        seconds_left=round(60.0 * left / rate, 1) if rate and state == "running" else None,
        pace=pace,
    )


def follow(folder: Path) -> Iterator[Status]:
    """
    Where the run stands, again and again while a process works on it; waits between two looks.

    Raises:
        StateRefused: As `read`.
    """
    while True:
        began = time.monotonic()
        found = read(folder)
        yield found
        if found.state not in _NOT_SETTLED:
            return
        # Of a large run a look takes a while.
        time.sleep(max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - began)))


def list_runs(runs_dir: Path) -> Iterator[tuple[Path, Manifest | None]]:
    """
    Every run below a folder, newest first, with the state and the counts that `read` would give.

    Yields:
        Its folder, and its manifest; None where it has none one could read.
    """
    for folder in run_folder.list_runs(runs_dir):
        try:
            manifest, state = _standing(folder)
        except StateRefused:
            yield folder, None
            continue
        counts = manifest.counts or {"rows": manifest.rows}
        if manifest.state in _NOT_SETTLED:
            with suppress(StateRefused):  # said of the one run, when one asks for it
                counts = read(folder).counts
        yield folder, msgspec.structs.replace(manifest, state=state, counts=counts)


def _standing(folder: Path) -> tuple[Manifest, run_folder.State]:
    """A run's manifest, and the state it is in: not what a killed process left behind."""
    manifest = run_folder.read_manifest(folder)
    store = store_at(Path(manifest.state_dir))
    if manifest.state in _NOT_SETTLED and not store.is_sending(parse(manifest.target), manifest.run_id):
        manifest = run_folder.read_manifest(folder)  # it may have ended between the two looks
        return manifest, "interrupted" if manifest.state in _NOT_SETTLED else manifest.state
    return manifest, manifest.state


def _count(journal: RunJournal, answered: Counter[str], reasons: Counter[str], *, died: bool) -> float:
    """
    Count rows by outcome and by reason.

    Returns:
        The rows per minute that were answered in the last minute of sending.
    """
    first = last = journal.last_answer()
    recent = 0
    for size, sent_at, answered_at, void, ended in journal.outcomes():
        if ended is None:
            if died and void is None:  # nobody is left to hear an answer
                answered[Outcome.UNKNOWN] += size
            continue
        outcomes = [ended.outcome] * size if isinstance(ended.outcome, str) else ended.outcome
        answered.update(outcomes)
        if ended.outcome != Outcome.SUCCEEDED:
            whys = [ended.reason] * size if isinstance(ended.reason, str) else ended.reason
            told = zip(outcomes, whys, strict=True)
            reasons.update(why for outcome, why in told if outcome != Outcome.SUCCEEDED)
        if (answered_at or 0) > last - _RATE_WINDOW_MS:
            first = min(first, sent_at)
            recent += size
    # A run of two seconds has answered its rows in two seconds, not in a minute.
    return recent * _RATE_WINDOW_MS / min(max(last - first, 1), _RATE_WINDOW_MS)
