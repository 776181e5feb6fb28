"""Standard streams that are full, closed, or were never there: no run fails for them, and nothing else suffers."""

import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).resolve().parent.parent / "jobs" / "earn.toml"
CHECK = [sys.executable, "-m", "bulkissue", "check", str(JOB)]


def in_shell(redirection: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """What comes of a command with some streams led elsewhere."""
    line = ["sh", "-c", f'"$@" {redirection}', "sh", *command]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_never_there(redirection: str) -> None:
    """The command ends as it would have."""
    ended = in_shell(redirection, CHECK)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_number_that_is_free() -> None:
    """No file gets the number of a stream: whatever is said to that stream would go into it."""
    program = (
        "import os; from bulkissue.streams import open_standard_streams; open_standard_streams();"
        " os.write(9, str(os.open('/dev/null', os.O_RDONLY)).encode())"
    )
    ended = in_shell("9>&1 <&- >&- 2>&-", [sys.executable, "-c", program])
    assert int(ended.stdout) > 2


def test_standard_output_that_is_full() -> None:
    """Who reads a file that is empty hears why, elsewhere."""
    ended = in_shell(">/dev/full", CHECK)
    assert ended.returncode == 0
    assert ended.stderr == "bulkissue: standard output could not be written: No space left on device\n"


def test_a_reader_who_leaves() -> None:
    """That is the reader's own affair."""
    ended = in_shell("| true", CHECK)
    assert (ended.returncode, ended.stderr) == (0, "")
