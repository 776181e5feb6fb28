"""
Retry: a new run over a finished run's failure ledger.

It must never take up a run that can still be resumed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from bulkissue.commands import rehearsal
from bulkissue.commands.confirmation import Confirmation
from bulkissue.commands.preparation import Choices
from bulkissue.commands.reopening import refuse_elsewhere
from bulkissue.commands.run import start
from bulkissue.commands.session import Result, Watch
from bulkissue.errors import UsageRefused
from bulkissue.job import loading
from bulkissue.outcomes import LEDGER_OF, Outcome
from bulkissue.state import run_folder
from bulkissue.state.store import store_at


def retry(
    parent: Path, confirmation: Confirmation, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result | None:
    """
    A new run over a finished run's failure ledger, of the same target and occasion.

    Returns:
        The new run, or None where the failure ledger has no rows.

    Raises:
        UsageRefused: The parent run can still be resumed.
        BulkissueError: As `start`.
    """
    manifest = run_folder.read_manifest(parent)
    run_folder.refuse_purged(manifest)
    if manifest.state != "completed":
        raise UsageRefused(
            f"run {manifest.run_id} has not come to its end and can be resumed",
            hint=f"bulkissue resume {manifest.run_id}",
        )
    ledger = parent / f"{LEDGER_OF[Outcome.FAILED]}.csv"
    if not sum(
        manifest.counts.get(outcome, 0) for outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED)
    ):
        say(f"nothing to retry: the failure ledger of run {manifest.run_id} has no rows")
        return None
    with rehearsal.going_on(parent, environ) as own:
        loaded = loading.load(parent / "job.toml", flags={"input.paths": [str(ledger)]}, environ=own)
        refuse_elsewhere(loaded, manifest)
        store_at(loaded.state_dir).require()
        choices = Choices(parent_run_id=manifest.run_id, rehearsal=manifest.rehearsal)
        return start(loaded, choices, confirmation, own, watch)
