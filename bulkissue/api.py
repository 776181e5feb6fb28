"""
The importable API: what the commands do, as typed functions. `bulkissue` names them; import them from there.

They print nothing and never ask: without `confirmed=True`, or `unattended = true` in the job, nothing is sent. Logs go
where structlog is configured to send them. A run that is killed, or loses its machine, is gone on with by `resume`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bulkissue.commands import confirmation, customer_history, notify
from bulkissue.commands import reconcile as reconciling
from bulkissue.commands import resolve as resolving
from bulkissue.commands import resume as resuming
from bulkissue.commands import retry as retrying
from bulkissue.commands import run as running
from bulkissue.commands import status as standing
from bulkissue.commands import verify as proving
from bulkissue.commands.preparation import Choices
from bulkissue.commands.reconcile import Reconciled
from bulkissue.commands.session import Result, Watch
from bulkissue.commands.status import Status
from bulkissue.job import loading
from bulkissue.job.loading import LoadedJob
from bulkissue.settle.by_hand import Word

__all__ = [
    "LoadedJob",
    "Reconciled",
    "Result",
    "Status",
    "Watch",
    "Word",
    "history",
    "load_job",
    "reconcile",
    "resolve",
    "resume",
    "retry",
    "run",
    "status",
    "verify",
]

_NOBODY = Watch()


def load_job(
    path: str | Path,
    settings: Mapping[str, object] = MappingProxyType({}),
    *,
    environ: Mapping[str, str] | None = None,
) -> LoadedJob:
    """
    Read and check a job file.

    Args:
        path: The job file.
        settings: What beats the file, by dotted key: `{"input.paths": ["today.csv"], "job.occasion": "2026-12"}`.
        environ: Instead of the process's environment.

    Raises:
        JobRefused: The file will not do; every problem in it is named.
    """
    return loading.load(Path(path), flags=settings, environ=os.environ if environ is None else environ)


def run(
    job: LoadedJob,
    *,
    confirmed: bool = False,
    limit: int | None = None,
    expect_rows: int | None = None,
    init_state: bool = False,
    environ: Mapping[str, str] | None = None,
    watch: Watch = _NOBODY,
) -> Result:
    """
    Execute a job over its input files, to the end.

    Args:
        job: As `load_job` gives it.
        confirmed: Your word that it may send; not needed where the job is `unattended`.
        limit: Send at most so many rows.
        expect_rows: Refuse an input of another number of rows.
        init_state: Begin without the memory of earlier runs, if the state folder is gone.
        environ: Where credentials are looked for, instead of the process's environment.
        watch: Who is told what goes on.

    Returns:
        How the run ended: `exit_code`, `folder` and `manifest` (`counts`, `reasons`, …). Failed and unknown rows are
        outcomes, and raise nothing. Those of `[notify]` have been told.

    Raises:
        BulkissueError: Nothing was sent, or the run stopped as its journal could not be written (`run_dir` names it).
    """
    choices = Choices(limit=limit, expect_rows=expect_rows, init_state=init_state)
    allowed = confirmation.Confirmation(confirmed or job.job.job.unattended)
    with notify.on_trouble(job.job, _environ(environ), job.base):
        result = running.start(job, choices, allowed, _environ(environ), watch)
    notify.of_result(job.job, result, _environ(environ), job.base)
    return result


def resume(
    run_dir: str | Path, *, confirmed: bool = False, environ: Mapping[str, str] | None = None, watch: Watch = _NOBODY
) -> Result:
    """
    Go on with an interrupted, stopped or crashed run, by its folder; the other arguments, and errors, as for `run`.

    Sends what was never sent, or is proven to have had no effect, and nothing else.
    """
    folder = Path(run_dir)
    return resuming.resume(folder, _allowed(folder, confirmed), _environ(environ), watch, _say_nothing)


def retry(
    run_dir: str | Path, *, confirmed: bool = False, environ: Mapping[str, str] | None = None, watch: Watch = _NOBODY
) -> Result | None:
    """
    A new run over the failure ledger of a finished run, by its folder; the rest as for `run`.

    Returns:
        None where the failure ledger has no rows.
    """
    folder = Path(run_dir)
    return retrying.retry(folder, _allowed(folder, confirmed), _environ(environ), watch, _say_nothing)


def reconcile(
    run_dir: str | Path,
    *,
    dry_run: bool = False,
    sample: int = 0,
    environ: Mapping[str, str] | None = None,
    watch: Watch = _NOBODY,
) -> Reconciled:
    """
    Settle a run's unknown rows by reading the service back; issues nothing.

    Args:
        run_dir: The run's folder.
        dry_run: Read, and settle nothing.
        sample: Besides, hold so many succeeded and so many failed rows against the service.
        environ: As for `run`.
        watch: As for `run`.
    """
    return reconciling.reconcile(
        Path(run_dir), dry_run=dry_run, sample=sample, environ=_environ(environ), watch=watch, say=_say_nothing
    )


def resolve(run_dir: str | Path, words: Sequence[Word], *, watch: Watch = _NOBODY) -> Result:
    """
    Settle unknown rows by a person's word, with evidence.

    Args:
        run_dir: The run's folder.
        words: What is said, of which row, by whom, on which evidence.
        watch: As for `run`.

    Raises:
        UsageRefused: A word names a row that is not unknown, or contradicts another; nothing is settled then.
    """
    return resolving.resolve(Path(run_dir), words, watch)


def status(run_dir: str | Path) -> Status:
    """Where a run stands, also while another process sends it."""
    return standing.read(Path(run_dir))


def verify(run_dir: str | Path) -> list[str]:
    """What is wrong with a finished run's ledgers, a sentence each; none where plan and journal say the same."""
    return proving.verify(Path(run_dir))[1]


def history(job: LoadedJob, identifier: str) -> list[dict[str, object]]:
    """
    What one customer got of a job's target, oldest first.

    Returns:
        For each time `identifier_type`, `outcome`, `run`, `source_file`, `source_row`, `reference`, `answered_at`.
    """
    return customer_history.what_customer_got(job, identifier)


def _allowed(folder: Path, confirmed: bool) -> confirmation.Confirmation:
    return confirmation.Confirmation(confirmed or load_job(folder / "job.toml", environ={}).job.job.unattended)


def _environ(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ


def _say_nothing(_: str) -> None:
    pass
