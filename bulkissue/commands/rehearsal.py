"""
Rehearsal: the stand-in service as a process of its own, for `run --sandbox` and for what goes on with such a run.

A rehearsal must never touch real history: it brings its own environment name and its own state folder, in which its
stand-in keeps its books; nor send to anything but its stand-in, whatever the environment says.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from bulkissue.errors import SettingsRefused, UsageRefused
from bulkissue.files import make_folder
from bulkissue.job.credentials import SECRET_NAMES
from bulkissue.state import run_folder
from bulkissue.state.run_folder import Manifest, new_run_id

#: What a job is given in a rehearsal instead of its own credentials. They open nothing.
CREDENTIALS = {
    "BULKISSUE_CLIENT_KEY": "rehearsal",
    "BULKISSUE_CLIENT_SECRET": "rehearsal",
    "BULKISSUE_USERNAME": "rehearsal",
    "BULKISSUE_PASSWORD": "rehearsal",
}
#: The stand-in shows at once what it issued.
_AT_ONCE = {"BULKISSUE_SETTLE_AFTER_SECONDS": "0"}
#: Faults that come with the program, by name.
SCENARIOS = ("bad-night",)
#: What of the environment would lead a rehearsal elsewhere than it began.
_PLACES = {f"BULKISSUE_{name}" for name in ("BASE_URL", "ENVIRONMENT", "STATE_DIR", "RUNS_DIR")}
_BOOKS = "stand-in.jsonl"


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """
    The environment of a rehearsal.

    No real secret is in it, whichever way it is given, and those of the stand-in instead; and no wait before reading
    back.
    """
    return {name: value for name, value in environ.items() if name not in SECRET_NAMES} | CREDENTIALS | _AT_ONCE


@contextmanager
def stand_in(state_dir: Path, faults: str | None = None) -> Iterator[dict[str, object]]:
    """
    A stand-in service on a free port of the loopback, until the block ends.

    Args:
        state_dir: The job's own state folder; the rehearsal's stands beside it, new each time, as the
            stand-in begins with empty books each time.
        faults: What goes wrong: one of `SCENARIOS`, or a file of faults.

    Yields:
        The settings that lead a job to it, by dotted key.

    Raises:
        SettingsRefused: It did not start.
    """
    own = state_dir.with_name(f"{state_dir.name}-sandbox") / new_run_id()
    make_folder(own)
    with _started(own / _BOOKS, faults) as base_url:
        yield {
            "api.base_url": base_url,
            "api.environment": "sandbox",
            "api.trust_env": False,  # a proxy would be sent what is for the stand-in
            "output.state_dir": str(own),
        }


@contextmanager
def going_on(folder: Path, environ: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """
    For what goes on with a run: where it was a rehearsal, its stand-in is there again while the block runs.

    Args:
        folder: The run's folder.
        environ: The environment.

    Yields:
        The environment to go on with.

    Raises:
        UsageRefused: It was a rehearsal, and its stand-in's books are gone.
        SettingsRefused: The stand-in did not start.
        StateRefused: The run's manifest cannot be read.
    """
    manifest = run_folder.read_manifest(folder)
    if not manifest.rehearsal:
        yield environ
        return
    books = _books_of(manifest)
    if not books.exists():
        raise UsageRefused(
            f"run {manifest.run_id} was a rehearsal, and what its stand-in service knew is gone",
            hint="run the job again with --sandbox; or without, for the real thing",
        )
    with _started(books, None) as base_url:
        own = {name: value for name, value in environ_of(environ).items() if name not in _PLACES}
        yield own | {"BULKISSUE_BASE_URL": base_url}


def forget(manifest: Manifest) -> None:
    """Remove what the stand-in of a rehearsal knows of its customers; nobody goes on with that rehearsal any more."""
    if manifest.rehearsal:
        _books_of(manifest).unlink(missing_ok=True)


def _books_of(manifest: Manifest) -> Path:
    return Path(manifest.state_dir) / _BOOKS


@contextmanager
def _started(books: Path, faults: str | None) -> Iterator[str]:
    command = [sys.executable, "-m", "bulkissue.sandbox", "--port", "0", "--books", str(books), "--until-stdin-ends"]
    with resources.as_file(resources.files("bulkissue.sandbox")) as there:
        if faults is not None:
            command += ["--faults", str(there / f"{faults}.toml") if faults in SCENARIOS else faults]
        # In a session of its own: Ctrl-C at a terminal is for the run, which still has answers on their way.
        process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        with process:
            try:
                assert process.stdout is not None  # noqa: S101 - a pipe was asked for
                line = process.stdout.readline()
                if not line:
                    raise SettingsRefused("the stand-in service did not start", hint="bulkissue sandbox tells why")
                yield json.loads(line)["base_url"]
            finally:
                process.terminate()
