"""
Notify: those whom the job names are told how a run ended.

What fails to be told is one warning, and never changes a run or its exit code. No identifier, no secret and no text of
an answer may stand in what is told.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bulkissue import logs
from bulkissue.commands.next_steps import next_steps
from bulkissue.commands.session import Result
from bulkissue.errors import EXIT_MEANINGS, BulkissueError, ExitCode
from bulkissue.http import webhook
from bulkissue.job.credentials import NOTIFY_VARIABLES, SECRET_NAMES, notify_url
from bulkissue.job.model import Job, NotifySection

_MOST_REASONS = 5


class _NotTold(Exception):
    """Somebody could not be told; says why in a few words."""


def of_result(job: Job, result: Result, environ: Mapping[str, str], base: Path) -> None:
    """
    Tell how a run ended, if the job wants that told.

    Args:
        job: The job.
        result: How the run stands, after reading back if there was any.
        environ: Where URLs are found.
        base: The folder in which a command is started.
    """
    manifest, code = result.manifest, result.exit_code
    kinds = ["finished" if manifest.state == "completed" else "stopped"]
    if code != ExitCode.OK:
        kinds.append("needs_person")
    wanted = [kind for kind in ("stopped", "needs_person", "finished") if kind in kinds and kind in job.notify.on]
    if not wanted:
        return
    counts = {name: rows for name, rows in manifest.counts.items() if rows}
    event = {
        "event": wanted[0],
        "job": manifest.job,
        "run_id": manifest.run_id,
        "run_dir": str(result.folder),
        "target": manifest.target,
        "rehearsal": manifest.rehearsal,
        "state": manifest.state,
        "exit_code": int(code),
        "meaning": EXIT_MEANINGS[code],
        "counts": counts,
        "reasons": dict(list(manifest.reasons.items())[:_MOST_REASONS]),
        "next": next_steps(manifest),
    }
    _tell(job.notify, event, environ, base)


@contextmanager
def on_trouble(job: Job, environ: Mapping[str, str], base: Path) -> Iterator[None]:
    """Tell of a run that could not begin, or that stopped without its books; the trouble goes on."""
    try:
        yield
    except Exception as trouble:
        code, message, hint, run_dir = ExitCode.INTERNAL, f"internal error: {type(trouble).__name__}", "", ""
        if isinstance(trouble, BulkissueError):
            code, message, hint, run_dir = trouble.exit_code, trouble.message, trouble.hint or "", trouble.run_dir
        if "needs_person" in job.notify.on and code not in {ExitCode.OK, ExitCode.LOCKED, ExitCode.USAGE}:
            event = {
                "event": "needs_person",
                "job": job.job.name,
                "run_dir": run_dir,
                "exit_code": int(code),
                "meaning": EXIT_MEANINGS[code],
                "message": message,
                "next": [hint] if hint else [],
            }
            _tell(job.notify, event, environ, base)
        raise


def _tell(settings: NotifySection, event: dict[str, Any], environ: Mapping[str, str], base: Path) -> None:
    ways: dict[str, Callable[[], None]] = {}
    if settings.command:
        ways["command"] = lambda: _by_command(settings, event, environ, base)
    if settings.webhook:
        ways["webhook"] = lambda: _by_webhook(settings, event, environ)
    if settings.apprise:
        ways["apprise"] = lambda: _by_apprise(settings, event, environ)
    for how, tell in ways.items():
        try:
            tell()
        except _NotTold as trouble:
            logs.get().warning("notify.failed", how=how, why=str(trouble))
        except Exception as trouble:  # noqa: BLE001 - whatever it is, the run has ended well or ill without it
            logs.get().warning("notify.failed", how=how, why=type(trouble).__name__)
        else:
            logs.get().info("notify.told", how=how, kind=event["event"])


def _by_command(settings: NotifySection, event: dict[str, Any], environ: Mapping[str, str], base: Path) -> None:
    # A program that is told has no business with secrets.
    known = {name: value for name, value in environ.items() if name not in SECRET_NAMES}
    # A session of its own, so that what it starts ends with it.
    process = subprocess.Popen(  # noqa: S603 - the job's own command
        settings.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=base,
        env=known,
        start_new_session=True,
    )
    try:
        process.communicate(json.dumps(event).encode(), timeout=settings.timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise _NotTold(f"no end within {settings.timeout_seconds:g} seconds") from None
    if process.returncode:
        raise _NotTold(f"ended with {process.returncode}")


def _by_webhook(settings: NotifySection, event: dict[str, Any], environ: Mapping[str, str]) -> None:
    try:
        webhook.post(_url("webhook", environ), event, settings.timeout_seconds)
    except webhook.NotTaken as trouble:
        raise _NotTold(str(trouble)) from None


def _by_apprise(settings: NotifySection, event: dict[str, Any], environ: Mapping[str, str]) -> None:
    urls = _url("apprise", environ).split()
    try:
        import apprise
    except ImportError:
        raise _NotTold("apprise is not installed: pip install 'bulkissue[notify]'") from None
    told = apprise.Apprise()
    if not all(told.add(url) for url in urls):
        raise _NotTold(f"apprise does not know one of the URLs of {NOTIFY_VARIABLES['apprise']}")
    done: list[bool] = []
    # It has no timeout for all of it. A thread that is left behind ends with the process.
    worker = threading.Thread(
        target=lambda: done.append(bool(told.notify(title=_title(event), body=_body(event)))), daemon=True
    )
    worker.start()
    worker.join(settings.timeout_seconds)
    if not done:
        raise _NotTold(f"no end within {settings.timeout_seconds:g} seconds")
    if not done[0]:
        raise _NotTold("apprise could not tell all of them")


def _url(how: str, environ: Mapping[str, str]) -> str:
    value, problem = notify_url(how, environ)
    if problem:
        raise _NotTold(problem)
    return value


def _title(event: dict[str, Any]) -> str:
    return f"bulkissue {event['job']}: {event['meaning']}"


def _body(event: dict[str, Any]) -> str:
    counts = ", ".join(f"{rows:,} {name}" for name, rows in event.get("counts", {}).items())
    lines = [counts, event.get("message", ""), *event["next"], event["run_dir"]]
    return "\n".join(line for line in lines if line)
