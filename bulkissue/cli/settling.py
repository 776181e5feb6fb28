"""Commands that settle unknown rows: reconcile, resolve."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkissue.cli.options import JSON, QUIET, RUN, RUNS_DIR
from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

if TYPE_CHECKING:
    pass


@click.command()
@RUN
@RUNS_DIR
@click.option("--dry-run", is_flag=True, help="Read, say what would be settled, and settle nothing.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Besides, hold N succeeded and N failed rows against the service.",
)
@click.option("--wait", is_flag=True, help="First wait until what was issued must be visible to reading back.")
@JSON
@QUIET
def reconcile(  # noqa: PLR0917 - click passes every option by name
    run_name: str, runs_dir: Path, dry_run: bool, sample: int, wait: bool, as_json: bool, quiet: bool
) -> int:
    """Settle unknown rows by reading the service back; issues nothing."""
    from bulkissue.cli import json_output, summary
    from bulkissue.commands.notify import of_result
    from bulkissue.commands.reconcile import reconcile as read_back
    from bulkissue.job.loading import load
    from bulkissue.state import run_folder

    screen = Screen(as_json=as_json, quiet=quiet)
    folder = run_folder.find_run(run_name, runs_dir)
    found = read_back(
        folder,
        dry_run=dry_run,
        sample=sample,
        environ=os.environ,
        watch=screen.watch(),
        say=screen.say,
        wait=wait,
    )
    if not dry_run and found.account.findings:
        of_result(load(folder / "job.toml", flags={}, environ={}).job, found.result, os.environ, folder)
    if as_json:
        screen.document(json_output.of_reconciled(found))
    elif quiet:
        screen.out.print(summary.reconciled_line(found), soft_wrap=True)
    else:
        summary.print_reconciled(screen.out, found)
    return found.exit_code


@click.command()
@RUN
@RUNS_DIR
@click.option(
    "--row", "rows", metavar="[FILE:]N", multiple=True, help="An unknown row, as unknown.csv names it; repeatable."
)
@click.option("--as", "finding", type=click.Choice(["issued", "not-issued"]), help="What became of it.")
@click.option("--by", metavar="NAME", help="Who says so.")
@click.option("--evidence", metavar="TEXT", help="Where it can be looked up: a ticket, a screenshot, a report.")
@click.option(
    "--from",
    "words_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Several rows: a CSV file, such as a copy of unknown.csv with a column named as.",
)
@click.option(
    "--job",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JOB.toml",
    help="RUN crashed and its folder is lost: say of the whole run that it issued to nobody, or to whom.",
)
@click.option(
    "--issued-to",
    metavar="PATH",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --job and --as issued: whom, in a file that the job can read, as the run's own input; repeatable.",
)
@JSON
@QUIET
def resolve(  # noqa: PLR0917 - click passes every option by name
    run_name: str,
    runs_dir: Path,
    rows: tuple[str, ...],
    finding: str | None,
    by: str | None,
    evidence: str | None,
    words_file: Path | None,
    job: Path | None,
    issued_to: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
) -> int:
    """
    Settle unknown rows by a person's word, with evidence.

    Name the rows with --row and say the rest with --as, --by and --evidence; or name a file with --from.

    Where a run crashed and its folder is lost, its target stops. Then say of the run as a whole, with --job,
    --as, --by and --evidence, that it issued to nobody, or with --issued-to to whom: they are never sent again,
    and the target is free.
    """
    from bulkissue.cli import json_output
    from bulkissue.commands.resolve import resolve as settle
    from bulkissue.settle import by_hand
    from bulkissue.state import run_folder

    screen = Screen(as_json=as_json, quiet=quiet)
    if job is not None:
        from bulkissue.commands import recovery
        from bulkissue.job import loading

        if rows or words_file is not None:
            raise click.UsageError("--job is about a whole run, --row and --from are about its rows")
        loaded = loading.load(job, flags={}, environ=os.environ)
        word = recovery.last_word(run_name, finding, issued_to, by, evidence)
        customers = recovery.settle_lost(loaded, word)
        screen.say(f"run {run_name}: {customers:,} customers count as issued; the target is free again")
        if as_json:
            screen.document(json_output.of_lost(loaded.job, word, customers))
        return ExitCode.OK
    if issued_to:
        raise click.UsageError("--issued-to goes with --job")
    words = by_hand.read_words(words_file, by=by, evidence=evidence) if words_file is not None else []
    if rows:
        words += by_hand.words_of(rows, finding, by, evidence)
    if not words:
        raise click.UsageError("nothing to settle: give --row, --as, --by and --evidence, or --from FILE.csv")
    return screen.result(settle(run_folder.find_run(run_name, runs_dir), words, screen.watch()))
