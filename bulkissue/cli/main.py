"""
The command line: options in, one frozen value, one call, print, exit code.

No business rule stands here. With `--json` exactly one JSON document goes to standard output, whatever
happens; logs and progress go to standard error. No traceback and no exception text of a library is
ever printed: it may hold an identifier.
"""

import dataclasses
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bulkissue import __version__
from bulkissue.errors import BulkissueError, ExitCode
from bulkissue.signals import ENDING
from bulkissue.streams import Unfailing, open_standard_streams

if TYPE_CHECKING:
    from bulkissue.commands.confirmation import Confirmation
    from bulkissue.commands.session import Result, Watch

_JOB = click.argument("job", metavar="JOB.toml", type=click.Path(path_type=Path))
_RUN = click.argument("run_name", metavar="RUN")
_RUNS_DIR = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where RUN is looked for.",
)
_YES = click.option("--yes", is_flag=True, help="Answer every question with yes.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
_QUIET = click.option("--quiet", is_flag=True, help="Print one line, and log only warnings.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bulkissue")
def cli() -> None:
    """
    Issue promotions, cart promotions and coupons to a file of customers, and account for every row.

    A new job: check it, try it with run --dry-run and run --sandbox, send a few rows with run --limit 5,
    and the rest with retry. RUN is a run id, a run folder, or "latest".

    README.md tells the rest: job file, ledgers, reasons, exit codes.
    """


@cli.command()
@_JOB
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
@click.option("--sandbox", is_flag=True, help="Rehearse against the stand-in service.")
@_YES
@_JSON
@_QUIET
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
    sandbox: bool,
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
    from bulkissue.commands import rehearsal, runs
    from bulkissue.commands.preparation import Choices, preview
    from bulkissue.job.loading import load

    if out is not None and not dry_run:
        raise click.UsageError("--out goes with --dry-run")
    flags: dict[str, object] = {}
    if inputs:
        flags["input.paths"] = list(inputs)
    if occasion is not None:
        flags["job.occasion"] = occasion
    choices = Choices(limit=limit, expect_rows=expect_rows, init_state=init_state)
    screen = _Screen(as_json=as_json, quiet=quiet)
    loaded = load(job, flags=flags, environ=os.environ)
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
        return screen.result(runs.start(loaded, choices, confirmation, os.environ, screen.watch()))
    with rehearsal.stand_in(loaded.state_dir) as leading_there:
        rehearsed = load(job, flags={**flags, **leading_there}, environ=os.environ)
        confirmation = screen.confirmation(given=True)
        environ = rehearsal.environ_of(os.environ)
        rehearsal_choices = dataclasses.replace(choices, rehearsal=True)
        return screen.result(runs.start(rehearsed, rehearsal_choices, confirmation, environ, screen.watch()))


@cli.command()
@_RUN
@_RUNS_DIR
@_YES
@_JSON
@_QUIET
def resume(run_name: str, runs_dir: Path, yes: bool, as_json: bool, quiet: bool) -> int:
    """
    Go on with an interrupted, stopped or crashed run.

    Sends what was never sent, or is proven to have had no effect, and nothing else.
    """
    from bulkissue.commands import runs
    from bulkissue.job.loading import load
    from bulkissue.state import run_folder

    screen = _Screen(as_json=as_json, quiet=quiet)
    folder = run_folder.find_run(run_name, runs_dir)
    run_folder.read_manifest(folder)
    unattended = load(folder / "job.toml", flags={}, environ={}).job.job.unattended
    confirmation = screen.confirmation(given=yes or unattended)
    return screen.result(runs.resume(folder, confirmation, os.environ, screen.watch(), screen.say))


@cli.command()
@_RUN
@_RUNS_DIR
@_YES
@_JSON
@_QUIET
def retry(run_name: str, runs_dir: Path, yes: bool, as_json: bool, quiet: bool) -> int:
    """
    Start a new run over RUN's failure ledger.

    That is: over the rows of a finished run that failed, were rejected or were not attempted.
    """
    from bulkissue.cli import json_output
    from bulkissue.commands import runs
    from bulkissue.job.loading import load
    from bulkissue.state import run_folder

    screen = _Screen(as_json=as_json, quiet=quiet)
    folder = run_folder.find_run(run_name, runs_dir)
    manifest = run_folder.read_manifest(folder)
    unattended = load(folder / "job.toml", flags={}, environ={}).job.job.unattended
    confirmation = screen.confirmation(given=yes or unattended)
    result = runs.retry(folder, confirmation, os.environ, screen.watch(), screen.say)
    if result is not None:
        return screen.result(result)
    if as_json:
        nothing = json_output.of_trouble(ExitCode.OK, "", None)
        screen.document({**nothing, "job": manifest.job, "parent_run_id": manifest.run_id, "error": None})
    return ExitCode.OK


@cli.command()
@_RUN
@_RUNS_DIR
@click.option("--dry-run", is_flag=True, help="Read, say what would be settled, and settle nothing.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Besides, hold N succeeded and N failed rows against the service.",
)
@_JSON
@_QUIET
def reconcile(  # noqa: PLR0917 - click passes every option by name
    run_name: str, runs_dir: Path, dry_run: bool, sample: int, as_json: bool, quiet: bool
) -> int:
    """Settle unknown rows by reading the service back; issues nothing."""
    from bulkissue.cli import json_output, summary
    from bulkissue.commands import runs
    from bulkissue.state import run_folder

    screen = _Screen(as_json=as_json, quiet=quiet)
    found = runs.reconcile(
        run_folder.find_run(run_name, runs_dir),
        dry_run=dry_run,
        sample=sample,
        environ=os.environ,
        watch=screen.watch(),
        say=screen.say,
    )
    if as_json:
        screen.document(json_output.of_reconciled(found))
    elif quiet:
        screen.out.print(summary.reconciled_line(found), soft_wrap=True)
    else:
        summary.print_reconciled(screen.out, found)
    return found.exit_code


@cli.command()
@_RUN
@_RUNS_DIR
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
@_JSON
@_QUIET
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
    from bulkissue.commands import runs
    from bulkissue.reconcile import by_hand
    from bulkissue.state import run_folder

    screen = _Screen(as_json=as_json, quiet=quiet)
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
    return screen.result(runs.resolve(run_folder.find_run(run_name, runs_dir), words, screen.watch()))


@cli.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@_RUNS_DIR
@_JSON
def status(run_name: str | None, runs_dir: Path, as_json: bool) -> int:
    """Show where a run stands, also while it runs. Without RUN, list the runs."""
    from bulkissue.cli import json_output, summary
    from bulkissue.commands import status as status_of
    from bulkissue.state import run_folder

    screen = _Screen(as_json=as_json, quiet=False)
    if run_name is None:
        found = list(status_of.list_runs(runs_dir))
        if as_json:
            screen.document(json_output.of_runs(found))
        else:
            summary.print_runs(screen.out, found)
        return ExitCode.OK
    folder = run_folder.find_run(run_name, runs_dir)
    standing = status_of.read(folder)
    if as_json:
        screen.document(json_output.of_status(folder, standing))
    else:
        summary.print_status(screen.out, folder, standing)
    return ExitCode.OK


@cli.command()
@_RUN
@_RUNS_DIR
@_JSON
def verify(run_name: str, runs_dir: Path, as_json: bool) -> int:
    """
    Prove a run's books again, from its plan and journal alone.

    Every row stands in one ledger, every ledger is what plan and journal say, and no file was changed since.
    """
    from bulkissue.commands.verify import changed_inputs
    from bulkissue.commands.verify import verify as prove
    from bulkissue.state import run_folder

    screen = _Screen(as_json=as_json, quiet=False)
    manifest, wrong = prove(run_folder.find_run(run_name, runs_dir))
    code = ExitCode.INTERNAL if wrong else ExitCode.OK
    notes = changed_inputs(manifest)
    if as_json:
        told = {"run_id": manifest.run_id, "exit_code": int(code), "counts": manifest.counts}
        screen.document({**told, "wrong": wrong, "notes": notes})
        return code
    for message in (*wrong, *notes):
        screen.out.print(message, soft_wrap=True)
    if not wrong:
        screen.out.print(f"{manifest.run_id}: {manifest.rows:,} rows, each in one ledger; digests agree.")
    return code


@cli.command(name="history")
@_JOB
@click.option("--identifier", required=True, metavar="VALUE", help="The customer; - reads it from standard input.")
@click.option("--occasion", metavar="TEXT", help="Of this occasion, instead of the job's.")
@_JSON
def history_command(job: Path, identifier: str, occasion: str | None, as_json: bool) -> int:
    """Show what one customer got of a job's target, and when."""
    from bulkissue.cli import summary
    from bulkissue.commands.customer_history import what_customer_got
    from bulkissue.job.loading import load

    screen = _Screen(as_json=as_json, quiet=False)
    value = sys.stdin.readline().strip() if identifier == "-" else identifier
    flags: dict[str, object] = {} if occasion is None else {"job.occasion": occasion}
    found = what_customer_got(load(job, flags=flags, environ=os.environ), value)
    if as_json:
        screen.document({"issued": found})
    else:
        summary.print_history(screen.out, found)
    return ExitCode.OK


@cli.group("state")
def state_group() -> None:
    """Hold the state folder against the run folders beside it."""


@state_group.command("check")
@_JOB
def state_check(job: Path) -> int:
    """Say whether state folder and run folders of the job's target agree."""
    from bulkissue.commands import state
    from bulkissue.job.loading import load

    screen = _Screen(as_json=False, quiet=False)
    told = state.check(load(job, flags={}, environ=os.environ))
    for sentence in told:
        screen.out.print(sentence, soft_wrap=True)
    if told:
        screen.out.print(f"bulkissue state rebuild {job} takes unknown runs in from their journals", soft_wrap=True)
        return ExitCode.SETTINGS
    screen.out.print("state folder, register and run folders of this target agree")
    return ExitCode.OK


@state_group.command("rebuild")
@_JOB
@click.option(
    "--runs-dir",
    "runs_dirs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Where run folders of other jobs are.",
)
@click.option("--without-missing", is_flag=True, help="Do without runs whose folders are gone for good.")
def state_rebuild(job: Path, runs_dirs: tuple[Path, ...], without_missing: bool) -> int:
    """Take runs that the state folder does not know in from their journals."""
    from bulkissue.commands import state
    from bulkissue.job.loading import load

    screen = _Screen(as_json=False, quiet=False)
    rebuilt = state.rebuild(load(job, flags={}, environ=os.environ), runs_dirs, without_missing=without_missing)
    taken = rebuilt.taken
    screen.out.print(f"{len(taken)} runs taken in{': ' if taken else ''}{', '.join(taken)}", soft_wrap=True)
    return ExitCode.OK


@state_group.command("backup")
@_JOB
@click.argument("out", metavar="DIR", type=click.Path(path_type=Path))
def state_backup(job: Path, out: Path) -> int:
    """Copy the job's state folder to DIR, consistent in itself, whoever is sending meanwhile."""
    from bulkissue.commands import state
    from bulkissue.job.loading import load

    screen = _Screen(as_json=False, quiet=False)
    copied = state.backup(load(job, flags={}, environ=os.environ), out)
    screen.out.print(f"{copied} files copied to {out}", soft_wrap=True)
    return ExitCode.OK


@cli.command()
@_JOB
def check(job: Path) -> int:
    """
    Show a job file's effective settings and where each is from.

    Refuses what a run would refuse in it. Secrets are named, never shown.
    """
    from bulkissue.cli import summary
    from bulkissue.job.loading import describe, load

    screen = _Screen(as_json=False, quiet=False)
    loaded = load(job, flags={}, environ=os.environ)
    for warning in loaded.warnings:
        screen.say(warning)
    summary.print_table(screen.out, ("key", "value", "from"), describe(loaded, os.environ))
    return ExitCode.OK


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free one.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[MORE]...")
def sandbox(port: int, options: tuple[str, ...]) -> None:
    """
    Start the stand-in service, on loopback, with faults to order.

    MORE are options such as --faults FILE; "python -m bulkissue.sandbox --help" lists them.
    """
    command = [sys.executable, "-m", "bulkissue.sandbox", "--port", str(port), *options]
    os.execv(sys.executable, command)  # noqa: S606 - our own module, as its own process


class _Screen:
    """Where things are said: the summary on standard output, everything else on standard error."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        from rich.console import Console

        from bulkissue import logs

        self.as_json = as_json
        self.quiet = quiet
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else 120, markup=False)
        self.err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120, markup=False)
        logs.configure(quiet=quiet or sys.stderr.isatty())

    def say(self, text: str) -> None:
        """Tell the person or the log file."""
        if not self.quiet:
            self.err.print(text, soft_wrap=True)

    def document(self, content: dict[str, Any]) -> None:
        """Print the one JSON document."""
        print(json.dumps(content, ensure_ascii=False))  # noqa: T201 - this is the output

    def result(self, result: "Result") -> int:
        """Print how a run ended; its exit code."""
        from bulkissue.cli import json_output, summary

        if self.as_json:
            self.document(json_output.of_run(result))
        elif self.quiet:
            self.out.print(summary.one_line(result), soft_wrap=True)
        else:
            summary.print_run(self.out, result)
        return result.exit_code

    def confirmation(self, *, given: bool) -> "Confirmation":
        """Confirmation that is given, or can be asked for on a terminal."""
        from bulkissue.commands.confirmation import Confirmation

        can_ask = sys.stdin.isatty() and sys.stderr.isatty()
        return Confirmation(given, (lambda question: click.confirm(question, err=True)) if can_ask else None)

    def watch(self) -> "Watch":
        """Tell what is going on, unless quiet; with a progress line on a terminal."""
        from bulkissue.cli import summary
        from bulkissue.cli.progress import Progress
        from bulkissue.commands.session import Watch

        if self.quiet:
            return Watch()
        return Watch(
            taken=lambda intake: summary.print_taken(self.err, intake),
            warned=self.say,
            planned=lambda drawn, _folder: self.say(summary.plan_lines(drawn)),
            sending=Progress(self.err).tell,
            looking_up=lambda asked, of: self.say(f"{asked:,} of {of:,} customers looked up"),
        )


def main(arguments: list[str]) -> int:
    """Execute the command line; the exit code. Nothing escapes but the end of the process."""
    as_json = "--json" in arguments

    def refuse(code: ExitCode, message: str, hint: str | None = None, run_dir: str = "") -> int:
        for number in ENDING:  # a second one must not cost the word about the first
            with suppress(ValueError):  # not the main thread: nobody's signals are taken here
                signal.signal(number, signal.SIG_IGN)
        if as_json:
            from bulkissue.cli import json_output

            print(json.dumps(json_output.of_trouble(code, message, hint, run_dir), ensure_ascii=False))  # noqa: T201
        print(f"bulkissue: {message}", file=sys.stderr)  # noqa: T201
        if hint:
            print(f"Try: {hint}", file=sys.stderr)  # noqa: T201
        return code

    try:
        return int(cli.main(args=arguments, prog_name="bulkissue", standalone_mode=False) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as trouble:
        where = (
            f"bulkissue {trouble.ctx.info_name} --help" if trouble.ctx and trouble.ctx.parent else "bulkissue --help"
        )
        return refuse(ExitCode.USAGE, trouble.format_message(), where)
    except click.ClickException as trouble:
        return refuse(ExitCode.USAGE, trouble.format_message())
    except BulkissueError as trouble:
        return refuse(trouble.exit_code, trouble.message, trouble.hint, trouble.run_dir)
    except (click.Abort, KeyboardInterrupt):
        return refuse(ExitCode.INTERRUPTED, "interrupted")
    except OSError as trouble:
        place = f": {trouble.filename}" if isinstance(trouble.filename, str) else ""
        return refuse(ExitCode.SETTINGS, f"{trouble.strerror or type(trouble).__name__}{place}")
    except Exception as trouble:  # noqa: BLE001 - the last line of defence: said without the text, which may name a customer
        frame = traceback.extract_tb(trouble.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return refuse(
            ExitCode.INTERNAL,
            f"internal error: {type(trouble).__name__} at {where}",
            "bulkissue status RUN tells where the run stands; nothing is sent twice",
        )


def entry() -> None:
    """The `bulkissue` command."""
    open_standard_streams()
    # Before and after the sending a SIGTERM, or a closed terminal, ends the program as Ctrl-C does.
    for number in ENDING[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)
    out = Unfailing(sys.stdout)
    sys.stdout, sys.stderr = out, Unfailing(sys.stderr)
    code = main(sys.argv[1:])
    out.flush()
    if out.lost:
        print(f"bulkissue: standard output could not be written: {out.lost.strerror}", file=sys.stderr)  # noqa: T201
    if code == ExitCode.INTERRUPTED:
        # Python remembers a Ctrl-C that met it while it was importing, and would end by the signal instead.
        os._exit(code)
    sys.exit(code)
