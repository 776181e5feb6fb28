"""
Reconcile: settle unknown rows by reading the service back.

It must never send anything that issues.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bulkissue.commands import rehearsal
from bulkissue.commands.reopening import (
    closed_on_trouble,
    halt_of,
    loaded_where_it_began,
    look,
    reopen,
    signed_in,
    standing,
)
from bulkissue.commands.session import Result, Session, Watch, ending_of
from bulkissue.errors import ExitCode
from bulkissue.outcomes import Outcome
from bulkissue.results import derivation
from bulkissue.settle.cases import Case
from bulkissue.settle.reading_back import Account, read_back
from bulkissue.state import run_folder
from bulkissue.state.entries import Settlement
from bulkissue.state.protocols import RunJournal


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What came of `reconcile`: how the run stands, what was read back, and whether it was only a look."""

    result: Result
    account: Account
    dry_run: bool

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with: the run's own code, unless reading back has worse to say."""
        left = self.account.unknown if self.dry_run else self.account.left
        if left or self.account.doubted:
            return ExitCode.UNKNOWN_ROWS
        if self.account.halt is not None:
            return self.account.halt.exit_code
        return ExitCode.INTERRUPTED if self.result.manifest.exit_code is None else self.result.exit_code


def reconcile(
    folder: Path,
    *,
    dry_run: bool,
    sample: int,
    environ: Mapping[str, str],
    watch: Watch,
    say: Callable[[str], None],
    wait: bool = False,
) -> Reconciled:
    """
    Settle unknown rows by reading the service back; ledgers, counts and history follow.

    Args:
        folder: The run's folder. The run need not have come to its end, and is not resumed.
        dry_run: Read, and settle nothing.
        sample: How many succeeded and how many failed rows to hold against the service besides.
        environ: Credentials, and variables that override limits and `[reconcile]`.
        watch: Who is told.
        say: Told what is read back.
        wait: First wait until `settle_after_seconds` have passed since the run ended, so that each row can be settled.

    Raises:
        BulkissueError: As `resume`.
    """
    with rehearsal.going_on(folder, environ) as own:
        started = time.monotonic()
        loaded = loaded_where_it_began(folder, own)
        if wait:
            _wait_until_settled(folder, loaded.job.reconcile.settle_after_seconds, say)
        with standing(folder) as (manifest, state):
            settled = manifest.exit_code is not None and manifest.state != "running"
            nothing_open = settled and not manifest.counts[Outcome.UNKNOWN]
            if nothing_open and not sample:
                say("no row is unknown: there is nothing to settle")
                return Reconciled(Result(folder, manifest), Account(), dry_run)
            credentials, halt = signed_in(loaded, own, watch), halt_of(manifest)

            def account(journal: RunJournal, settle: Callable[[Settlement], None]) -> Account:
                case = Case(derivation.Run.of(folder, manifest), journal, ending_of(halt), loaded.job, loaded.state_dir)
                return read_back(
                    case,
                    credentials,
                    sample=sample,
                    settle=settle,
                    say=say,
                    tell=lambda asked, of: watch.asking("rows read back", asked, of),
                )

            if dry_run or nothing_open:
                looked = look(folder, manifest, state)
                if looked is None:
                    return Reconciled(Result(folder, manifest), Account(), dry_run)
                try:
                    return Reconciled(Result(folder, manifest), account(looked, lambda _: None), dry_run)
                finally:
                    looked.leave()
            journal = reopen(folder, manifest, state)
            session = Session(folder, manifest, loaded, journal, state, watch, started)
            with closed_on_trouble(journal):
                found = account(journal, lambda settlement: journal.write([settlement]))
            return Reconciled(session.settle(halt), found, dry_run)


def settle_itself(
    result: Result, *, wanted: bool, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result:
    """
    A run's result once its unknown rows were read back, where that is wanted and there are any.

    Args:
        result: Of a run that has just ended. One that a signal ended is left alone.
        wanted: `--settle`, or `[reconcile] after_run`.
        environ: As for `reconcile`.
        watch: As for `reconcile`.
        say: As for `reconcile`.
    """
    manifest = result.manifest
    if not wanted or manifest.state == "interrupted" or not manifest.counts[Outcome.UNKNOWN]:
        return result
    return reconcile(result.folder, dry_run=False, sample=0, environ=environ, watch=watch, say=say, wait=True).result


def _wait_until_settled(folder: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Wait until every issue of the run must be visible to reading back; without the target's lock."""
    manifest = run_folder.read_manifest(folder)
    if manifest.finished_at is None or not manifest.counts.get(Outcome.UNKNOWN):
        return
    left = datetime.fromisoformat(manifest.finished_at).timestamp() + seconds + 1 - time.time()
    if 0 < left <= seconds + 1:
        say(f"waiting {left:.0f} seconds, until what was issued must be visible")
        time.sleep(left)
