"""Copies of a run folder are older than the run: none of them may send again what the run has sent."""

import os
import shutil
import signal
import time

import pytest
from conftest import ENVIRON, hold_against_books

from bulkissue.sandbox import Fault

MOBILES = [(f"9199860{number:05}",) for number in range(500)]


@pytest.fixture
def stopped(serve, write_job, write_input, command):
    """A run that a guard stopped in the middle, and its service, which is well again."""
    service = serve()
    service.order(Fault(name="lost", kind="drop", when="after", nth=(2,), route="bulk"))
    write_input(["mobile"], MOBILES)
    job = write_job(service.base_url, limits={"concurrency": 1}, guards={"max_unknown": 50})
    ended = command("run", job, "--yes", "--json")
    assert (ended.code, ended.counts["unknown"], ended.counts["not_attempted"]) == (6, 100, 300), ended.err
    return ended.run_dir, service


def test_a_copy_beside_the_run(stopped, command):
    """A copy under another name is no run, and `latest` does not mean it."""
    folder, service = stopped
    shutil.copytree(folder, folder.with_name(f"{folder.name}.bak"))
    assert command("resume", "latest", "--yes", "--json").counts == {"rows": 500, "succeeded": 400, "unknown": 100}
    assert command("resume", folder.with_name(f"{folder.name}.bak"), "--yes", "--json").code == 3
    assert command("resume", "latest", "--yes", "--json").counts == {"rows": 500, "succeeded": 400, "unknown": 100}
    assert len(service.issued()) == 500


@pytest.mark.parametrize("verb", ["resume", "resolve"])
def test_an_older_copy_in_place_of_the_run(stopped, command, verb):
    """A copy made before the last resume, put in the run's place, is refused and sends nothing."""
    folder, service = stopped
    older = folder.parent.with_name("older")
    shutil.copytree(folder, older)
    assert command("resume", folder, "--yes", "--json").code == 6
    shutil.rmtree(folder)
    older.rename(folder)
    words = ["--row", "101", "--as", "issued", "--by", "x", "--evidence", "y"] if verb == "resolve" else ["--yes"]
    refused = command(verb, folder, *words, "--json")
    assert refused.code == 3
    assert "put back the run folder itself" in refused.json["error"]["hint"]
    assert len(service.issued()) == 500


def test_a_copy_of_a_run_that_was_killed(serve, write_job, write_input, command, tmp_path):
    """A copy made while the run was sending cannot know its last intents: it is refused, and so is the next run."""
    import subprocess
    import sys

    service = serve(latency_seconds=0.2)
    write_input(["mobile"], MOBILES)
    job = write_job(service.base_url, limits={"concurrency": 1})
    running = subprocess.Popen(
        [sys.executable, "-m", "bulkissue", "run", str(job), "--yes", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRON},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not service.issued():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (folder,) = (tmp_path / "runs").glob("*T*Z-*")
    shutil.copytree(folder, tmp_path / "copy")
    seen = len(service.issued())
    while len(service.issued()) == seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(0.5)
    shutil.move(folder, tmp_path / "original")
    shutil.move(tmp_path / "copy", folder)
    effects = len(service.issued())
    assert command("resume", folder, "--yes", "--json").code == 3
    assert command("run", job, "--yes", "--json").code == 3
    assert len(service.issued()) == effects
    shutil.rmtree(folder)
    shutil.move(tmp_path / "original", folder)
    ended = command("resume", folder, "--yes", "--json")
    assert ended.code == 6, ended.err
    hold_against_books(folder, service.issued(), effect="earn")


def test_a_refused_resume_changes_nothing(stopped, command):
    """A resume that nobody consents to leaves the books as they were."""
    folder, _ = stopped
    assert command("resume", folder, "--json").code == 3
    assert command("verify", folder).code == 0
