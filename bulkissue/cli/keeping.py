"""Commands that remove personal data: purge, erase."""

import os
import re
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import click

from bulkissue.cli.options import JOB, JSON, YES
from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

_UNITS = {"d": "days", "w": "weeks"}


def _period(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([dw])", text)
    if found is None:
        raise click.BadParameter("must look like 90d or 12w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.command()
@JOB
@click.option("--older-than", callback=_period, metavar="90d", help="Of runs that ended so long ago.")
@click.option("--dry-run", is_flag=True, help="Say which runs, and remove nothing.")
@JSON
def purge(job: Path, older_than: timedelta | None, dry_run: bool, as_json: bool) -> int:
    """
    Remove the personal data of settled runs.

    Counts, digests, proofs, and the memory that prevents a second issue stay. What is unknown is never purged. If
    left out, the period is that of [output] keep_days.
    """
    from bulkissue.cli import summary
    from bulkissue.commands.purge import purge as remove
    from bulkissue.job.loading import load

    screen = Screen(as_json=as_json, quiet=False)
    done = remove(load(job, flags={}, environ=os.environ), older_than, dry_run=dry_run)
    if as_json:
        screen.document({"dry_run": dry_run, "runs": [asdict(one) for one in done]})
        return ExitCode.OK
    if done:
        rows = [(one.run_id, f"{one.rows:,}", "rehearsal" if one.rehearsal else "") for one in done]
        summary.print_table(screen.out, ("run", "rows", ""), rows)
    screen.out.print(f"{len(done)} runs {'would be purged' if dry_run else 'purged'}")
    return ExitCode.OK


@click.command()
@JOB
@click.option("--identifier", required=True, metavar="-", help="- : read from standard input, one on each line.")
@YES
def erase(job: Path, identifier: str, yes: bool) -> int:
    """
    Remove one customer from every run folder; prints a receipt.

    The identifier is never given on the command line, where others on this machine can see it. All that stood beside it
    in its rows goes as well; the receipt says from where, and not who. Asks first, unless --yes is given.
    """
    import json

    from bulkissue.commands.erase import erase as remove
    from bulkissue.job.loading import load

    if identifier != "-":
        raise click.UsageError("--identifier must be -: who is to be erased is read from standard input")
    screen = Screen(as_json=True, quiet=False)
    loaded = load(job, flags={}, environ=os.environ)
    wanted = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
    if not wanted:
        raise click.UsageError("standard input has no identifier")
    if not yes:
        # Standard input is taken, so nobody can be asked.
        raise click.UsageError("erasing cannot be undone: say --yes")
    print(json.dumps(remove(loaded, wanted), indent=2))  # noqa: T201 - this is the output
    screen.say("the receipt is kept in erasures/ of the state folder")
    return ExitCode.OK
