"""
`python -m bulkissue.sandbox`: the stand-in service as a process of its own.

Prints one JSON line when it listens, and serves until SIGTERM or SIGINT. It must never print anything else there: test
harnesses read the address from it.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from bulkissue.errors import BulkissueError
from bulkissue.sandbox import load, serve


@click.command()
@click.option("--host", help="A loopback address.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="0 for any free one.  [default: 0]")
@click.option("--seed", type=int, help="What the faults draw from.  [default: 0]")
@click.option("--requests-per-minute", type=int, help="Answer 429 beyond it.  [default: no limit]")
@click.option("--visible-after", type=float, help="Seconds until a new issue shows in the reads.  [default: 0]")
@click.option("--token-ttl", type=float, help="Seconds a token lives.  [default: 300]")
@click.option("--config", type=click.Path(path_type=Path), help="Settings, TOML or JSON; the flags beat them.")
@click.option("--faults", type=click.Path(path_type=Path), help="Faults from the start, TOML or JSON.")
@click.option("--books", help="Keep what is issued in this file, and go on from what it holds.")
@click.option("--until-stdin-ends", is_flag=True, help="End when standard input does, as with whoever started this.")
def main(config: Path | None, faults: Path | None, until_stdin_ends: bool, **flags: Any) -> None:
    """The stand-in service, on loopback, with faults to order."""
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        serve(load(config, faults, **flags))
    except BulkissueError as trouble:
        click.echo(trouble.message + (f"\nTry: {trouble.hint}" if trouble.hint else ""), err=True)
        sys.exit(int(trouble.exit_code))


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
