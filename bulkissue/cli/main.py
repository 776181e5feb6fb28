"""
The command line: options in, one frozen value, one call, print, exit code.

No business rule stands here. With `--json` exactly one JSON document goes to standard output, whatever
happens; logs and progress go to standard error. No traceback and no exception text of a library is
ever printed: it may hold an identifier.
"""

import errno
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import click

from bulkissue import __version__
from bulkissue.cli import accounting, beginning, installing, keeping, looking, sending, settling, state
from bulkissue.errors import BulkissueError, ExitCode
from bulkissue.signals import ENDING
from bulkissue.streams import Unfailing, open_standard_streams

_NOT_ALLOWED = (
    "let the user who runs this write there (chown, chmod), or lead runs_dir and state_dir elsewhere, by the job file "
    "or by BULKISSUE_RUNS_DIR and BULKISSUE_STATE_DIR"
)
#: What to do where the system refuses a file.
_MENDING = {
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: _NOT_ALLOWED,
    errno.ENOSPC: "free some room on that disk",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bulkissue")
def cli() -> None:
    """
    Issue promotions, cart promotions and coupons to a file of customers, and account for every row.

    A new job: check it, try it with run --dry-run and run --sandbox, send a few rows with run --limit 5,
    and the rest with retry. RUN is a run id, a run folder, or "latest".

    README.md and docs/ tell the rest: job file, ledgers, reasons, exit codes.
    """


for _command in (
    beginning.init,
    sending.run,
    sending.resume,
    sending.retry,
    settling.reconcile,
    settling.resolve,
    looking.status,
    looking.verify,
    looking.history_command,
    accounting.export,
    accounting.diff,
    keeping.purge,
    keeping.erase,
    state.state_group,
    looking.check,
    looking.sandbox,
    installing.schedule,
    installing.completion,
):
    cli.add_command(_command)


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
        return refuse(
            ExitCode.SETTINGS, f"{trouble.strerror or type(trouble).__name__}{place}", _MENDING.get(trouble.errno or 0)
        )
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
