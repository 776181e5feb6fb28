"""Commands that send: run, resume, retry."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkissue.cli.options import ENVIRONMENT, JOB, JSON, QUIET, RUN, RUNS_DIR, YES
from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

if TYPE_CHECKING:
    from bulkissue.commands.session import Result


@click.command()
@JOB
@click.option(
    "--input", "inputs", metavar="PATH", multiple=True, help="Read this instead of the job's paths; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Plan, say what would be sent where, and send nothing.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --dry-run: write the ledgers of what would not be sent there.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Send at most the first N rows.")
@click.option(
    "--expect-rows", type=click.IntRange(min=0), metavar="N", help="Refuse an input that has not exactly N rows."
)
@click.option("--occasion", metavar="TEXT", help="Issue the same target once more on purpose, under this name.")
@ENVIRONMENT
@click.option("--sandbox", is_flag=True, help="Rehearse against the stand-in service.")
@click.option(
    "--sandbox-faults",
    metavar="WHAT",
    help="With --sandbox: what goes wrong there, as bad-night or as a file of faults.",
)
@click.option("--settle", is_flag=True, help="Read unknown rows back at the end, once they must be visible.")
@YES
@JSON
@QUIET
@click.option(
    "--init-state", is_flag=True, help="Begin without the memory of earlier runs, if the state folder is gone."
)
def run(  # noqa: PLR0917 - click passes every option by name
    job: Path,
    inputs: tuple[str, ...],
    dry_run: bool,
    out: Path | None,
    limit: int | None,
    expect_rows: int | None,
    occasion: str | None,
    environment: str | None,
    sandbox: bool,
    sandbox_faults: str | None,
    settle: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    init_state: bool,
) -> int:
    """
    Execute a job over its input files.

    Asks before it sends. Where nobody can be asked it needs --yes, or unattended = true in the job file.
    """
    from bulkissue.cli import json_output, summary
    from bulkissue.commands import rehearsal
    from bulkissue.commands.notify import of_result, on_trouble
    from bulkissue.commands.preparation import Choices, preview
    from bulkissue.commands.run import start
    from bulkissue.job.loading import load

    if out is not None and not dry_run:
        raise click.UsageError("--out goes with --dry-run")
    if sandbox_faults is not None and not sandbox:
        raise click.UsageError("--sandbox-faults goes with --sandbox")
    flags: dict[str, object] = {}
    if inputs:
        flags["input.paths"] = list(inputs)
    if occasion is not None:
        flags["job.occasion"] = occasion
    choices = Choices(limit=limit, expect_rows=expect_rows, init_state=init_state)
    screen = Screen(as_json=as_json, quiet=quiet)
    loaded = load(job, flags=flags, environ=os.environ, environment=environment)
    if environment is not None:
        screen.environment(environment, loaded.job.api.base_url)
    for warning in loaded.warnings:
        screen.say(warning)
    if dry_run:
        found = preview(loaded, choices, out, screen.watch())
        refused = ExitCode.FAILED_ROWS if found.plan.outcomes.get("rejected") else ExitCode.OK
        if as_json:
            screen.document(json_output.of_preview(found, loaded.job, refused))
        elif quiet:
            screen.out.print(f"dry run: {summary.plan_lines(found.plan)}", soft_wrap=True)
        else:
            summary.print_preview(screen.out, found, loaded.job)
        return refused
    if not sandbox:
        confirmation = screen.confirmation(given=yes or loaded.job.job.unattended)
        with on_trouble(loaded.job, os.environ, loaded.base):
            result = start(loaded, choices, confirmation, os.environ, screen.watch())
            result = _settled(result, screen, wanted=settle or loaded.job.reconcile.after_run)
        of_result(loaded.job, result, os.environ, loaded.base)
        return screen.result(result)
    with rehearsal.stand_in(loaded.state_dir, sandbox_faults) as leading_there:
        environ = rehearsal.environ_of(os.environ)
        rehearsed = load(job, flags={**flags, **leading_there}, environ=environ, environment=environment)
        confirmation = screen.confirmation(given=True)
        rehearsal_choices = dataclasses.replace(choices, rehearsal=True)
        result = start(rehearsed, rehearsal_choices, confirmation, environ, screen.watch())
    result = _settled(result, screen, wanted=settle or loaded.job.reconcile.after_run)
    of_result(loaded.job, result, os.environ, loaded.base)
    return screen.result(result)


def _settled(result: "Result", screen: Screen, *, wanted: bool) -> "Result":
    from bulkissue.commands.reconcile import settle_itself

    return settle_itself(result, wanted=wanted, environ=os.environ, watch=screen.watch(), say=screen.say)


@click.command()
@RUN
@RUNS_DIR
@YES
@JSON
@QUIET
def resume(run_name: str, runs_dir: Path, yes: bool, as_json: bool, quiet: bool) -> int:
    """
    Go on with an interrupted, stopped or crashed run.

    Sends what was never sent, or is proven to have had no effect, and nothing else.
    """
    from bulkissue.commands.notify import of_result, on_trouble
    from bulkissue.commands.resume import resume as go_on
    from bulkissue.job.loading import load
    from bulkissue.state import run_folder

    screen = Screen(as_json=as_json, quiet=quiet)
    folder = run_folder.find_run(run_name, runs_dir)
    run_folder.read_manifest(folder)
    job = load(folder / "job.toml", flags={}, environ={}).job
    confirmation = screen.confirmation(given=yes or job.job.unattended)
    with on_trouble(job, os.environ, folder):
        result = go_on(folder, confirmation, os.environ, screen.watch(), screen.say)
        result = _settled(result, screen, wanted=job.reconcile.after_run)
    of_result(job, result, os.environ, folder)
    return screen.result(result)


@click.command()
@RUN
@RUNS_DIR
@YES
@JSON
@QUIET
def retry(run_name: str, runs_dir: Path, yes: bool, as_json: bool, quiet: bool) -> int:
    """
    Start a new run over RUN's failure ledger.

    That is: over the rows of a finished run that failed, were rejected or were not attempted.
    """
    from bulkissue.cli import json_output
    from bulkissue.commands.notify import of_result, on_trouble
    from bulkissue.commands.retry import retry as again
    from bulkissue.job.loading import load
    from bulkissue.state import run_folder

    screen = Screen(as_json=as_json, quiet=quiet)
    folder = run_folder.find_run(run_name, runs_dir)
    manifest = run_folder.read_manifest(folder)
    job = load(folder / "job.toml", flags={}, environ={}).job
    confirmation = screen.confirmation(given=yes or job.job.unattended)
    with on_trouble(job, os.environ, folder):
        result = again(folder, confirmation, os.environ, screen.watch(), screen.say)
        result = result and _settled(result, screen, wanted=job.reconcile.after_run)
    if result is not None:
        of_result(job, result, os.environ, folder)
        return screen.result(result)
    if as_json:
        nothing = json_output.of_trouble(ExitCode.OK, "", None)
        screen.document({**nothing, "job": manifest.job, "parent_run_id": manifest.run_id, "error": None})
    return ExitCode.OK
