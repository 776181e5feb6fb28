"""
Run-level trouble, and the exit code of each kind.

Row-level trouble is a value (`outcomes.Reason`), never one of these. The tree:

    BulkissueError                1   internal, or conservation broken
     +- ConservationBroken        1   the books do not add up
     +- UsageRefused              2   the command cannot mean anything here
     +- SettingsRefused           3   job file, credentials or environment
     |   +- JobRefused            3   the job file; carries every problem in it
     |   +- StateRefused          3   state folder, journal or run folder cannot be trusted
     +- InputRefused              4   the input; nothing was sent
     +- TargetLocked             75   another run holds this target's lock

A finished run ends with an `ExitCode` of its own (0, 5, 6, 7, 8, or 3 where the service refused the
credentials); that is a result, not an exception. No message here may carry an identifier or a secret.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with. Public contract: cron lines are written against it."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    SETTINGS = 3
    INPUT = 4
    FAILED_ROWS = 5
    UNKNOWN_ROWS = 6
    STOPPED = 7
    INTERRUPTED = 8
    LOCKED = 75


EXIT_MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "every row succeeded or needed nothing",
    ExitCode.INTERNAL: "internal error, or conservation broken",
    ExitCode.USAGE: "usage",
    ExitCode.SETTINGS: "job file, credentials or environment",
    ExitCode.INPUT: "input refused, nothing sent",
    ExitCode.FAILED_ROWS: "finished, with failed or rejected rows",
    ExitCode.UNKNOWN_ROWS: "at least one unknown row (outranks 3, 5, 7 and 8)",
    ExitCode.STOPPED: "stopped by a guard, resumable",
    ExitCode.INTERRUPTED: "interrupted by a signal, resumable",
    ExitCode.LOCKED: "another run holds this target's lock",
}


class BulkissueError(Exception):
    """
    Trouble that ends the command.

    Args:
        message: What happened and where (file, row, key), present tense.
        hint: What to try; printed as `Try: …`.

    Attributes:
        run_dir: The folder of the run that was sending when it happened, else empty.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.run_dir = ""


class ConservationBroken(BulkissueError):
    """A row has no outcome or two, or the counts do not add up."""


class UsageRefused(BulkissueError):
    """The command, as given, cannot mean anything here."""

    exit_code = ExitCode.USAGE


class SettingsRefused(BulkissueError):
    """The job file, the credentials or the environment will not do."""

    exit_code = ExitCode.SETTINGS


class JobRefused(SettingsRefused):
    """
    The job file will not do.

    Args:
        path: The job file.
        problems: Each as `key: what is wrong with which value`, in the file's order.
        hint: What to try.
    """

    def __init__(self, path: str, problems: list[str], *, hint: str | None = None) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{path} has {count}:", *(f"  {p}" for p in problems)]), hint=hint)
        self.problems = problems


class StateRefused(SettingsRefused):
    """The state folder, a journal or a run folder is missing, torn, foreign or newer than this program."""


class InputRefused(BulkissueError):
    """An input file will not do. Nothing was sent."""

    exit_code = ExitCode.INPUT


class NothingToDo(BulkissueError):
    """There is nothing new in an inbox. Nothing was sent, and nobody has to act."""

    exit_code = ExitCode.OK


class TargetLocked(BulkissueError):
    """Another run holds this target's lock; the message names its holder, host and start."""

    exit_code = ExitCode.LOCKED
