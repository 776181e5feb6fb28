"""Status: where a run stands, told while another process writes it, and after whatever end."""

import json
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from scene import MOBILES, Scene, wait_until

from bulkissue.sandbox import Fault, Running


@pytest.fixture
def scene(
    tmp_path: Path, serve: Callable[..., Running], write_job: Callable[..., Path], write_input: Callable[..., Path]
) -> Scene:
    """Two hundred rows, ten to a request, at a service that takes its time."""
    service = serve(latency_seconds=0.05)
    write_input(["mobile"], [*MOBILES[:200], MOBILES[0]])
    write_job(service.base_url, limits={"batch_size": 10, "concurrency": 1})
    return Scene(tmp_path, service)


def status(scene: Scene, run: object = "latest") -> dict[str, Any]:
    told = scene.do("status", run, "--json")
    assert told.code == 0, told.err
    return told.json


def test_a_run_while_it_runs(scene):
    """While another process writes, status tells growing counts that add up, the rate and the time left."""
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 2)
    seen = []
    while started.alive:
        seen.append(status(scene))
    assert started.wait().code == 0
    running = [told for told in seen if told["state"] == "running"]
    assert len(running) >= 2
    for told in seen:
        counts = dict(told["counts"])
        assert counts.pop("rows") == 201 == sum(counts.values())
        assert (told["planned_rows"], told["planned_requests"]) == (200, 20)
        assert counts["duplicate"] == 1
    succeeded = [told["counts"]["succeeded"] for told in seen]
    assert succeeded == sorted(succeeded)
    assert 0 < running[0]["counts"]["succeeded"] < 200
    assert running[-1]["rows_per_minute"] > 0
    assert 0 < running[0]["seconds_left"] < 30
    assert running[0]["exit_code"] is None
    after = status(scene)
    assert (after["state"], after["exit_code"], after["counts"]["succeeded"]) == ("completed", 0, 200)
    assert after["seconds_left"] is None
    scene.judge()


def test_waits(scene):
    """Status tells how often and how long the service asked to wait."""
    scene.service.order(Fault(kind="status", status=429, retry_after=1, nth=(3,)))
    assert scene.run().code == 0
    told = status(scene)
    assert (told["waits"], told["waited_seconds"], told["attempts"], told["requests"]) == (1, 1.0, 21, 20)


def test_the_pace(scene):
    """While a run is held, status says so, why, and until when; also to a person. Before and after, what it is."""
    scene.service.order(Fault(kind="status", status=429, retry_after=3, nth=(3,)))
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 3)
    wait_until(lambda: (status(scene)["pace"] or {"why": ""})["why"])
    held, shown = status(scene)["pace"], scene.do("status", "latest").out
    assert (held["per_minute"], held["allowed"], held["why"]) == (0, 600_000, "429")
    assert 0 < held["until"] / 1000 - time.time() < 3.1
    clock = datetime.fromtimestamp(held["until"] / 1000).astimezone().strftime("%H:%M:%S")
    assert held["words"] == f"held by a 429 until {clock}"
    assert held["words"] in " ".join(shown.split())
    assert started.wait().code == 0
    assert status(scene)["pace"] is None
    page = (scene.run_dir() / "report.html").read_text(encoding="utf-8")
    assert "the pace was lower than the job allows" in page
    assert "the service refused requests as too many (429)" in page


def test_the_pace_of_a_run_that_nobody_slows(scene):
    """It is the whole allowance, and the report does not speak of it."""
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 1)
    pace = None
    while pace is None:
        assert started.alive
        pace = status(scene)["pace"]
    assert started.wait().code == 0
    words = "600,000/min"
    assert pace == {"per_minute": 600_000, "allowed": 600_000, "why": "", "until": None, "words": words}
    assert "the pace was lower" not in (scene.run_dir() / "report.html").read_text(encoding="utf-8")


def test_a_run_that_was_killed(scene):
    """A killed run is not running: what had no answer is unknown, and the rest is still to be sent."""
    scene.run("intent.noted:5")
    told = status(scene)
    assert (told["state"], told["exit_code"]) == ("interrupted", None)
    assert {name: count for name, count in told["counts"].items() if count} == {
        "rows": 201, "succeeded": 40, "unknown": 10, "not_attempted": 150, "duplicate": 1,
    }  # fmt: skip
    shown = scene.do("status", "latest").out
    assert "killed" in shown
    assert "bulkissue resume" in shown
    listed = scene.do("status", "--json").json["runs"]
    assert [(run["state"], run["counts"]["rows"]) for run in listed] == [("interrupted", 201)]


def test_status_changes_nothing(scene):
    """Looking at a killed run leaves every byte of it as it is, and the run can be resumed."""
    scene.run("intent.noted:5")
    folder = scene.run_dir()
    kept = ("journal.db", "journal.db-wal", "run.json", "plan.parquet")
    before = {name: (folder / name).read_bytes() for name in kept}
    for _ in range(2):
        status(scene)
    assert {name: (folder / name).read_bytes() for name in kept} == before
    assert scene.resume().counts["unknown"] == 10


def test_the_list_of_runs(scene, write_input):
    """Without a run, status lists all of them, newest first, with state, counts and parent."""
    scene.service.order(Fault(kind="status", status=400, nth=(2,)))
    first = scene.run()
    assert first.code == 5
    assert scene.do("retry", "latest", "--yes", "--json").code == 0
    write_input(["mobile"], MOBILES[300:400])
    scene.service.order(Fault(kind="slow", seconds=1.5, nth=(3,)))
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: len(list(scene.runs_dir.glob("*/run.json"))) == 3)
    wait_until(lambda: status(scene)["counts"]["succeeded"])
    listed = scene.do("status", "--json").json["runs"]
    assert [run["state"] for run in listed] == ["running", "completed", "completed"]
    assert [run["parent_run_id"] for run in listed] == [None, first.json["run_id"], None]
    assert [run["exit_code"] for run in listed] == [None, 0, 5]
    assert [run["counts"]["succeeded"] for run in listed][1:] == [10, 190]
    assert all(run["run_id"] in scene.do("status").out for run in listed)
    started.kill(signal.SIGTERM)
    assert started.wait().code == 8
    assert scene.do("status", "--json").json["runs"][0]["state"] == "interrupted"
    scene.judge()


def test_a_rehearsal(scene):
    """A rehearsal is called one wherever it is shown, so that nobody takes it for the real thing."""
    run_id = scene.do("run", "job.toml", "--sandbox", "--json").json["run_id"]
    for shown in (scene.do("status"), scene.do("status", run_id)):
        assert "(rehearsal)" in shown.out
    assert scene.do("status", "--json").json["runs"][0]["rehearsal"] is True
    assert scene.do("status", run_id, "--json").json["rehearsal"] is True
    real = scene.run()
    assert real.json["rehearsal"] is False
    assert "(rehearsal)" not in scene.do("status", "latest").out


def test_no_such_run(scene):
    """A run that is not there, and a folder that is no run, are said to be so."""
    assert scene.do("status", "latest").code == 2
    assert scene.do("status", "20260101T000000000Z-0000").code == 2
    assert scene.do("status", "--json").json == {"runs": []}
    (scene.folder / "nothing").mkdir()
    assert scene.do("status", "nothing").code == 3


def test_a_run_that_could_not_begin(scene):
    """A run whose plan was never whole is listed as one that sent nothing."""
    scene.run("plan.drawn")
    assert "nothing was sent" in scene.do("status").out
    assert json.loads(scene.do("status", "--json").out)["runs"][0]["state"] is None


def test_the_latest_run_after_the_clock_was_set_back(scene):
    """`latest` is the run that was begun last by the state folder's count, whatever the clocks said."""
    first = scene.run().run_dir
    second = scene.do("run", "job.toml", "--occasion", "again", "--yes", "--json").run_dir
    earlier = second.with_name("20200101T000000000Z-0000")
    second.rename(earlier)  # as if it had been begun when the clock was wrong
    manifest = json.loads((earlier / "run.json").read_text())
    (earlier / "run.json").write_text(json.dumps({**manifest, "run_id": earlier.name}))
    assert scene.do("status", "--json").json["runs"][0]["run_id"] == first.name
    # Its journal has the old name, and so is refused; the refusal says which run was meant.
    assert str(earlier) in scene.do("status", "latest").err
