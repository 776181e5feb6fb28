"""
Rehearsal: the stand-in service as a process of its own, for `run --sandbox`.

A rehearsal must never touch real history: it brings its own environment name and its own state folder.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bulkissue.errors import SettingsRefused
from bulkissue.state.run_folder import new_run_id

#: What a job is given in a rehearsal instead of its own credentials. They open nothing.
CREDENTIALS = {
    "BULKISSUE_CLIENT_KEY": "rehearsal",
    "BULKISSUE_CLIENT_SECRET": "rehearsal",
    "BULKISSUE_USERNAME": "rehearsal",
    "BULKISSUE_PASSWORD": "rehearsal",
}


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rehearsal: no real secret, whichever way it is given, and those of the stand-in instead."""
    secrets = {*CREDENTIALS, *(f"{name}_FILE" for name in CREDENTIALS)}
    return {name: value for name, value in environ.items() if name not in secrets} | CREDENTIALS


@contextmanager
def stand_in(state_dir: Path) -> Iterator[dict[str, object]]:
    """
    A stand-in service on a free port of the loopback, until the block ends.

    Args:
        state_dir: The job's own state folder; the rehearsal's stands beside it, new each time, as the
            stand-in begins with empty books each time.

    Yields:
        The settings that lead a job to it, by dotted key.

    Raises:
        SettingsRefused: It did not start.
    """
    command = [sys.executable, "-m", "bulkissue.sandbox", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own module
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            line = process.stdout.readline()
            if not line:
                raise SettingsRefused("the stand-in service did not start", hint="bulkissue sandbox tells why")
            yield {
                "api.base_url": json.loads(line)["base_url"],
                "api.environment": "sandbox",
                "output.state_dir": str(state_dir.with_name(f"{state_dir.name}-sandbox") / new_run_id()),
            }
        finally:
            process.terminate()
