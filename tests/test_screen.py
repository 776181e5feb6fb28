"""What a person sees on a terminal while a run sends, and behind it."""

import re

import pytest
from conftest import ENVIRON
from scene import MOBILES, Scene
from terminal import Terminal

from bulkissue.sandbox import Fault
from bulkissue.service.codes import CODES, meaning

COLOURS = re.compile(rb"\x1b\[[0-9;]*3[0-7]m")


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """A run of some seconds, of which one answer is lost."""
    write_input(["mobile", "name"], [(mobile, "n") for (mobile,) in MOBILES[:400]])
    write_job(
        service.base_url,
        limits={"batch_size": 10, "concurrency": 2, "requests_per_minute": 600},
        guards={"max_failed_ratio": 1.0},
    )
    service.order(Fault(kind="drop", nth=(6,)))
    return Scene(tmp_path, service)


def start(scene, *arguments, **how):
    environ = {**ENVIRON, **how.pop("environ", {})}
    return Terminal(*(arguments or ("run", "job.toml", "--yes")), cwd=scene.folder, environ=environ, **how)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_live_area(scene, columns):
    """Phase, bar, rows, outcomes and reasons stand in one place; warnings above it; and nothing of it is left."""
    terminal = start(scene, columns=columns)
    terminal.until("sending")
    lines = terminal.until("unknown")
    assert all("sending" not in line for line in lines if "warning" in line)
    first = next(number for number, line in enumerate(lines) if "sending" in line)
    assert ("━" in lines[first]) == (columns >= 60)
    area = " ".join(lines[first:])
    assert "of 400 rows" in area
    assert re.search(r"[0-9]+ succeeded", area)
    assert re.search(r"[0-9]+ × sent, and ", area)
    assert len([line for line in lines if "of 400 rows" in line and "%" in line]) == 1
    code = terminal.end()
    assert code == 6
    seen = " ".join(terminal.lines)
    assert "sending" not in seen
    assert "×" not in seen
    assert not terminal.screen.cursor.hidden
    assert re.search(r"10 unknown: bulkissue\s+reconcile", seen)


def test_interrupted_on_a_terminal(scene):
    """Ctrl-C leaves the terminal as it was, and the summary says how to go on."""
    terminal = start(scene)
    terminal.until("succeeded")
    terminal.interrupt()
    assert terminal.end() == 8
    assert not terminal.screen.cursor.hidden
    assert any("not_attempted: bulkissue resume" in line for line in terminal.lines)


def test_without_colours(scene):
    """NO_COLOR is kept to, also by warnings."""
    coloured = start(scene)
    coloured.until("succeeded")
    coloured.end()
    plain = start(scene, "status", "latest", "--follow", environ={"NO_COLOR": "1"})
    plain.end()
    assert COLOURS.search(coloured.raw)
    assert not COLOURS.search(plain.raw)


def test_a_terminal_that_cannot_rewrite(scene):
    """With TERM=dumb there are plain lines, and no escape sequence."""
    terminal = start(scene, environ={"TERM": "dumb"})
    assert terminal.end() == 6
    assert b"\x1b" not in terminal.raw
    assert re.search(rb"%, [0-9]+ of 400 rows", terminal.raw)


def test_following_a_run(scene):
    """`status --follow` shows a run that another process works on until it ends, on a terminal and in a pipe."""
    run = start(scene)
    run.until("succeeded")
    following = start(scene, "status", "latest", "--follow")
    following.until("running")
    following.until("succeeded")
    piped = scene.start("status", "latest", "--follow")
    assert run.end() == 6
    assert following.end() == 0
    assert any("completed" in line for line in following.lines)
    assert all("━" not in line for line in following.lines)
    ended = piped.wait()
    assert ended.code == 0
    assert "completed" in ended.out
    assert re.search(r"%, [0-9]+ of 400 rows.*succeeded", ended.err)


def test_follow_needs_a_run(scene):
    """What is to be followed has to be said."""
    ended = scene.do("status", "--follow")
    assert ended.code == 2
    assert "needs a RUN" in ended.err


def test_next_commands(scene):
    """The summary names the command for each outcome that has one, and reasons in words."""
    ended = scene.do("run", "job.toml", "--yes")
    run = scene.run_dir().name
    assert f"10 unknown: bulkissue reconcile {run}" in ended.out
    assert re.search(r"net\.[a-z_]+ +10 +sent, and ", ended.out)


@pytest.mark.parametrize("code", CODES)
def test_codes_in_words(code):
    """A known code has words; an unknown one, a status, and our own reasons too."""
    assert meaning(f"api.{code}") == f"{CODES[code]} ({code})"
    assert meaning("api.4711") == "the service answered with code 4711"
    assert meaning("http.502") == "the service answered HTTP 502"
    assert meaning("net.read_timeout").startswith("sent, and no whole answer")
    assert meaning("nonsense") == ""


def test_reading_back_on_a_terminal(scene):
    """Reading back shows how far it is; where it cannot be rewritten, and in a file, the last line says it."""
    scene.do("run", "job.toml", "--yes")
    scene.service.order(Fault(kind="slow", route="read", seconds=0.3, rate=1.0))
    how = {"BULKISSUE_CONCURRENCY": "1", "BULKISSUE_SETTLE_AFTER_SECONDS": "0"}
    terminal = start(scene, "reconcile", "latest", environ=how)
    lines = terminal.until("of 10 rows")
    assert any(re.search(r"rows read back .*[0-9]+%, [0-9]+ of 10 rows", line) for line in lines)
    assert not any("succeeded" in line for line in lines)
    terminal.end()
    assert any("10 rows were unknown" in line for line in terminal.lines)


def test_reading_back_behind_a_terminal(scene):
    """In a file one line says how many were read back."""
    scene.do("run", "job.toml", "--yes")
    ended = scene.do("reconcile", "latest", environ={"BULKISSUE_SETTLE_AFTER_SECONDS": "0"})
    assert "10 of 10 rows read back" in ended.err
