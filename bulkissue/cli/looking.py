"""Commands that only look: status, verify, history, check; and the stand-in service."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkissue.cli.options import ENVIRONMENT, JOB, JSON, RUN, RUNS_DIR
from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@RUNS_DIR
@JSON
@click.option("--follow", is_flag=True, help="Go on showing a run until no process works on it.")
def status(run_name: str | None, runs_dir: Path, as_json: bool, follow: bool) -> int:
    """Show where a run stands, also while it runs. Without RUN, list the runs."""
    from bulkissue.cli import json_output, summary
    from bulkissue.cli.progress import Standing, following
    from bulkissue.commands import status as status_of
    from bulkissue.state import run_folder

    if follow and run_name is None:
        raise click.UsageError("--follow needs a RUN")
    screen = Screen(as_json=as_json, quiet=False)
    if run_name is None:
        found = list(status_of.list_runs(runs_dir))
        if as_json:
            screen.document(json_output.of_runs(found))
        else:
            summary.print_runs(screen.out, found)
        return ExitCode.OK
    folder = run_folder.find_run(run_name, runs_dir)
    if follow:
        following(screen.err, map(Standing.of, status_of.follow(folder)))
    standing = status_of.read(folder)
    if as_json:
        screen.document(json_output.of_status(folder, standing))
    else:
        summary.print_status(screen.out, folder, standing)
    return ExitCode.OK


@click.command()
@RUN
@RUNS_DIR
@JSON
def verify(run_name: str, runs_dir: Path, as_json: bool) -> int:
    """
    Prove a run's books again, from its plan and journal alone.

    Every row stands in one ledger, every ledger is what plan and journal say, and no file was changed since.
    """
    from bulkissue.commands.verify import changed_inputs, removals
    from bulkissue.commands.verify import verify as prove
    from bulkissue.state import run_folder

    screen = Screen(as_json=as_json, quiet=False)
    manifest, wrong = prove(run_folder.find_run(run_name, runs_dir))
    code = ExitCode.INTERNAL if wrong else ExitCode.OK
    notes = [*removals(manifest), *changed_inputs(manifest)]
    if as_json:
        told = {"run_id": manifest.run_id, "exit_code": int(code), "counts": manifest.counts}
        screen.document({**told, "wrong": wrong, "notes": notes})
        return code
    for message in (*wrong, *notes):
        screen.out.print(message, soft_wrap=True)
    if not wrong:
        screen.out.print(f"{manifest.run_id}: {manifest.rows:,} rows, each in one ledger; digests agree.")
    return code


@click.command(name="history")
@JOB
@click.option("--identifier", required=True, metavar="VALUE", help="The customer; - reads it from standard input.")
@click.option("--occasion", metavar="TEXT", help="Of this occasion, instead of the job's.")
@ENVIRONMENT
@JSON
def history_command(job: Path, identifier: str, occasion: str | None, environment: str | None, as_json: bool) -> int:
    """Show what one customer got of a job's target, and when."""
    from bulkissue.cli import summary
    from bulkissue.commands.customer_history import what_customer_got
    from bulkissue.job.loading import load

    screen = Screen(as_json=as_json, quiet=False)
    value = sys.stdin.readline().strip() if identifier == "-" else identifier
    flags: dict[str, object] = {} if occasion is None else {"job.occasion": occasion}
    found = what_customer_got(load(job, flags=flags, environ=os.environ, environment=environment), value)
    if as_json:
        screen.document({"issued": found})
    else:
        summary.print_history(screen.out, found)
    return ExitCode.OK


@click.command()
@JOB
@ENVIRONMENT
def check(job: Path, environment: str | None) -> int:
    """
    Show a job file's effective settings and where each is from.

    Refuses what a run would refuse in it. Secrets are named, never shown.
    """
    from bulkissue.cli import summary
    from bulkissue.job.loading import describe, load

    screen = Screen(as_json=False, quiet=False)
    loaded = load(job, flags={}, environ=os.environ, environment=environment)
    for warning in loaded.warnings:
        screen.say(warning)
    summary.print_table(screen.out, ("key", "value", "from"), describe(loaded, os.environ))
    return ExitCode.OK


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free one.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[MORE]...")
def sandbox(port: int, options: tuple[str, ...]) -> None:
    """
    Start the stand-in service, on loopback, with faults to order.

    MORE are options such as --faults FILE; "python -m bulkissue.sandbox --help" lists them.
    """
    command = [sys.executable, "-m", "bulkissue.sandbox", "--port", str(port), *options]
    os.execv(sys.executable, command)  # noqa: S606 - our own module, as its own process
