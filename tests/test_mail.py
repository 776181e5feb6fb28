"""What a night leaves in the morning's mail, and in the run's own log."""

import json

import pytest
from scene import MOBILES, Scene

from bulkissue import logs
from bulkissue.sandbox import Fault


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    write_input(["mobile"], MOBILES[:60])
    write_job(
        service.base_url,
        limits={"batch_size": 1, "concurrency": 4},
        guards={"max_unknown": 1000},
        reconcile={"settle_after_seconds": 1},
    )
    return Scene(tmp_path, service)


def test_a_good_night(scene):
    """Nobody has to act: not a word, on either side."""
    ended = scene.do("run", "job.toml", "--yes", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_bad_night(scene):
    """Many lost answers are one block and a few lines, and all of them stand in the run's log."""
    scene.service.order(Fault(kind="drop", when="after", rate=0.5, route="bulk"))
    ended = scene.do("run", "job.toml", "--yes", "--quiet")
    assert ended.code == 6
    block = ended.out.splitlines()
    assert block[0].startswith("test: ")
    assert "unknown" in block[0]
    assert any("bulkissue reconcile" in line for line in block)
    assert str(scene.run_dir()) in ended.out
    assert len(ended.err.splitlines()) <= 4, ended.err
    said = [json.loads(line) for line in ended.err.splitlines()]
    assert {line["job"] for line in said} == {"test"}
    kept = [json.loads(line) for line in (scene.run_dir() / logs.RUN_LOG).read_text().splitlines()]
    assert {"run.started", "run.finished", "batch.answered"} <= {line["event"] for line in kept}
    assert {line["run_id"] for line in kept} == {scene.run_dir().name}
    assert (scene.run_dir() / logs.RUN_LOG).stat().st_mode & 0o777 == 0o600
    assert not any(mobile in json.dumps(kept) for (mobile,) in MOBILES[:60])
    assert scene.do("verify", "latest").code == 0


def test_a_night_that_settles_itself(scene):
    """With `--settle` unknown rows are read back once they must be visible, and nothing is left to tell."""
    scene.service.order(Fault(kind="drop", when="after", nth=(3, 9, 20), route="bulk"))
    ended = scene.do("run", "job.toml", "--yes", "--quiet", "--settle")
    assert (ended.code, ended.out) == (0, ""), ended.out
    scene.judge()


def test_after_run(scene, write_job):
    """The same by the job; what was not issued stays to be retried."""
    write_job(
        scene.service.base_url,
        limits={"batch_size": 1, "concurrency": 1},
        reconcile={"settle_after_seconds": 1, "after_run": True},
        name="itself.toml",
    )
    scene.service.order(Fault(kind="drop", when="before", nth=(3,), route="bulk"))
    ended = scene.do("run", "itself.toml", "--yes", "--json")
    assert (ended.code, ended.counts) == (5, {"rows": 60, "succeeded": 59, "failed": 1})


def test_waiting(scene, write_job):
    """`reconcile --wait` says that it waits, and settles what is too young to be settled without."""
    write_job(
        scene.service.base_url, limits={"batch_size": 1, "concurrency": 4}, reconcile={"settle_after_seconds": 10}
    )
    scene.service.order(Fault(kind="drop", when="before", nth=(3,), route="bulk"))
    assert scene.do("run", "job.toml", "--yes", "--json").code == 6
    assert scene.do("reconcile", "latest").code == 6
    ended = scene.do("reconcile", "latest", "--wait")
    assert ended.code == 5, ended.out
    assert "waiting" in ended.out + ended.err


def test_the_log_of_a_run_ends_with_it(tmp_path, capsys):
    """What a process says before and after a run does not stand in the run's log."""
    logs.configure(quiet=False)
    logs.get().info("before")
    with logs.kept_in(tmp_path):
        logs.get().info("meanwhile")
    logs.get().info("after")
    assert [json.loads(line)["event"] for line in (tmp_path / logs.RUN_LOG).read_text().splitlines()] == ["meanwhile"]
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_of_a_kind_one_a_minute(monkeypatch, capsys):
    """The next one says how many there were meanwhile, and the end how many were not said."""
    logs.configure(quiet=True)
    now = [0.0]
    monkeypatch.setattr("bulkissue.logs.time.monotonic", lambda: now[0])
    sparing = logs.Sparing("batch.answered")
    for moment in (0, 10, 59, 61, 62):
        now[0] = moment
        sparing.warning("a", rows=1)
    sparing.warning("b", rows=2)
    sparing.flush()
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line.get("rows"), line.get("more_since")) for line in told] == [(1, None), (1, 2), (2, None), (None, 1)]
