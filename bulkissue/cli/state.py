"""Commands on the state folder: check, rebuild, backup."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkissue.cli.options import JOB
from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

if TYPE_CHECKING:
    pass


@click.group("state")
def state_group() -> None:
    """Hold the state folder against the run folders beside it."""


@state_group.command("check")
@JOB
def state_check(job: Path) -> int:
    """Say whether state folder and run folders of the job's target agree."""
    from bulkissue.commands import state
    from bulkissue.job.loading import load

    screen = Screen(as_json=False, quiet=False)
    told = state.check(load(job, flags={}, environ=os.environ))
    for sentence in told:
        screen.out.print(sentence, soft_wrap=True)
    if told:
        screen.out.print(f"bulkissue state rebuild {job} takes unknown runs in from their journals", soft_wrap=True)
        return ExitCode.SETTINGS
    screen.out.print("state folder, register and run folders of this target agree")
    return ExitCode.OK


@state_group.command("rebuild")
@JOB
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

    screen = Screen(as_json=False, quiet=False)
    rebuilt = state.rebuild(load(job, flags={}, environ=os.environ), runs_dirs, without_missing=without_missing)
    taken = rebuilt.taken
    screen.out.print(f"{len(taken)} runs taken in{': ' if taken else ''}{', '.join(taken)}", soft_wrap=True)
    return ExitCode.OK


@state_group.command("backup")
@JOB
@click.argument("out", metavar="DIR", type=click.Path(path_type=Path))
def state_backup(job: Path, out: Path) -> int:
    """Copy the job's state folder to DIR, consistent in itself, whoever is sending meanwhile."""
    from bulkissue.commands import state
    from bulkissue.job.loading import load

    screen = Screen(as_json=False, quiet=False)
    copied = state.backup(load(job, flags={}, environ=os.environ), out)
    screen.out.print(f"{copied} files copied to {out}", soft_wrap=True)
    return ExitCode.OK
