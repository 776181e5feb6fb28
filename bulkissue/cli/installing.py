"""Commands that print what belongs into other programs' settings: schedule, completion."""

import os
import pwd
import sys
from contextlib import suppress
from pathlib import Path

import click

from bulkissue import __version__
from bulkissue.cli.options import JOB
from bulkissue.errors import ExitCode

_HEADINGS = {
    "crontab": "# For `crontab -e`, in the machine's local time. What it prints is mailed to MAILTO.",
    "service": "# /etc/systemd/system/{name}.service",
    "timer": "# /etc/systemd/system/{name}.timer, in local time; then systemctl enable --now {name}.timer",
    "cronjob": "# For `kubectl apply -f -`, in UTC; with a Secret and a PersistentVolumeClaim, both named {name}.",
}


@click.command()
@JOB
@click.option("--cron", metavar="FIELDS", help="When, instead of the job's [schedule] cron.")
@click.option("--image", default=f"bulkissue:{__version__}", show_default=True, help="The container, for Kubernetes.")
@click.option("--only", type=click.Choice(tuple(_HEADINGS)), help="One of them, ready for a file or a pipe.")
def schedule(job: Path, cron: str | None, image: str, only: str | None) -> int:
    """
    Print a job's crontab line, systemd units and CronJob.

    They say nothing where another run holds the target (exit 75), and start no run again by themselves that stopped
    at a guard (7) or needs a person (6).
    """
    from bulkissue.commands.schedule import Place
    from bulkissue.commands.schedule import schedule as written_down
    from bulkissue.job.loading import load

    loaded = load(job, flags={"schedule.cron": cron}, environ=os.environ)
    found = written_down(loaded, Place(_program(), _user(), image), os.environ)
    if only is not None:
        sys.stdout.write(getattr(found, only))
        return ExitCode.OK
    parts = [f"{heading.format(name=found.name)}\n{getattr(found, kind)}" for kind, heading in _HEADINGS.items()]
    sys.stdout.write("\n".join(parts))
    return ExitCode.OK


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> int:
    """Print what lets a shell complete commands and options."""
    from click.shell_completion import get_completion_class

    known = get_completion_class(shell)
    if known is None:
        raise click.UsageError(f"this click knows no completion for {shell}")
    sys.stdout.write(
        known(click.get_current_context().find_root().command, {}, "bulkissue", "_BULKISSUE_COMPLETE").source()
    )
    return ExitCode.OK


def _program() -> tuple[str, ...]:
    """This very command, wherever it is started from."""
    script = Path(sys.executable).with_name("bulkissue")
    return (str(script),) if script.exists() else (sys.executable, "-m", "bulkissue")


def _user() -> str:
    with suppress(KeyError):  # a container's user may have no name
        return pwd.getpwuid(os.getuid()).pw_name
    return ""
