"""An inbox: files are taken when they are whole, and moved when their run is settled."""

import json
import os
import time

import pytest
from scene import MOBILES, Scene

from bulkissue.sandbox import Fault


@pytest.fixture
def scene(tmp_path, service, write_job):
    (tmp_path / "inbox").mkdir()
    write_job(
        service.base_url,
        input={"paths": ["inbox/*.csv"], "done": "move"},
        limits={"batch_size": 5},
        reconcile={"settle_after_seconds": 0},
    )
    return Scene(tmp_path, service)


def put(scene, name, first, rows=5, *, old=True):
    path = scene.folder / "inbox" / name
    path.write_text("mobile\n" + "\n".join(mobile for (mobile,) in MOBILES[first : first + rows]) + "\n")
    if old:
        os.utime(path, (time.time() - 900,) * 2)
    return path


def run(scene, *more, **how):
    return scene.do("run", "job.toml", "--yes", "--json", *more, **how)


def inbox(scene):
    folder = scene.folder / "inbox"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_are_moved(scene):
    """What was taken goes into done/ once its run is settled, never over another; an empty inbox is nobody's fault."""
    put(scene, "a.csv", 0)
    assert run(scene).code == 0
    assert inbox(scene) == ["done/a.csv"]
    put(scene, "a.csv", 5)
    run(scene)
    assert inbox(scene) == ["done/a.2.csv", "done/a.csv"]
    empty = run(scene)
    assert (empty.code, "nothing new" in empty.err) == (0, True)
    assert len(list(scene.runs_dir.iterdir())) == 2
    for folder in scene.runs_dir.iterdir():
        assert scene.do("verify", folder).code == 0


def test_a_run_with_unknown_rows_keeps_its_files(scene):
    """They go when reading back, or a person, has settled the last row; a rehearsal and a dry run move nothing."""
    put(scene, "a.csv", 0, rows=10)
    scene.do("run", "job.toml", "--sandbox")
    run(scene, "--dry-run")
    assert inbox(scene) == ["a.csv"]
    scene.service.order(Fault(kind="drop", nth=(2,)))
    assert run(scene).code == 6
    assert inbox(scene) == ["a.csv"]
    scene.do("reconcile", "latest")
    assert inbox(scene) == ["done/a.csv"]


@pytest.mark.parametrize("place", ["run.registered", "answer.noted", "manifest.finished", "run.settled"])
def test_killed(scene, place):
    """Whenever the run is killed, nobody is issued twice, and in the end the file is moved."""
    put(scene, "a.csv", 0)
    run(scene, crash_at=place)
    assert inbox(scene) == ["a.csv"]
    scene.resume()
    if inbox(scene) == ["a.csv"]:
        run(scene)
    if inbox(scene) == ["a.csv"]:
        scene.do("reconcile", "latest")
    assert inbox(scene) == ["done/a.csv"]
    assert len(scene.service.issued()) == 5


def test_files_that_still_grow(scene, write_job):
    """Young files, and those without their marker, are left alone; markers are no input and go with their file."""
    write_job(
        scene.service.base_url,
        name="slow.toml",
        input={"paths": ["inbox/*"], "done": "move", "settle_seconds": 60, "marker": ".done"},
    )
    put(scene, "old.csv", 0)
    put(scene, "young.csv", 5, old=False)
    put(scene, "bare.csv", 10)
    for name in ("old.csv", "young.csv"):
        (scene.folder / "inbox" / f"{name}.done").touch()
    ended = scene.do("run", "slow.toml", "--yes", "--json")
    assert ended.counts == {"rows": 5, "succeeded": 5}
    assert inbox(scene) == ["bare.csv", "done/old.csv", "young.csv", "young.csv.done"]
    again = scene.do("run", "slow.toml", "--yes", "--json")
    assert (again.code, "2 files are left alone" in again.err) == (0, True)


def test_the_same_content_again(scene):
    """What was taken by another name is recognised and said; nobody gets it twice."""
    put(scene, "a.csv", 0)
    run(scene)
    put(scene, "b.csv", 0)
    again = run(scene)
    assert again.counts == {"rows": 5, "already_issued": 5}
    assert "inbox/b.csv: the same content as inbox/a.csv, which run" in again.err
    notes = json.loads((scene.run_dir() / "run.json").read_text())["inputs"][0]["notes"]
    assert "the same content as inbox/a.csv" in notes[0]
    assert inbox(scene) == ["done/a.csv", "done/b.csv"]


def test_a_file_that_changed_meanwhile(scene):
    """A file that is not what was read any more stays: nobody has taken what it holds now."""
    path = put(scene, "a.csv", 0, rows=5)
    scene.service.order(Fault(kind="slow", seconds=1.0, when="before"))
    started = scene.start("run", "job.toml", "--yes")
    by = time.monotonic() + 20
    while not list(scene.runs_dir.glob("*/journal.db")):
        assert time.monotonic() < by
        time.sleep(0.02)
    path.write_text("mobile\n919986000999\n")
    assert started.wait().code == 0
    assert inbox(scene) == ["a.csv"]


def test_named_files_are_no_inbox(scene, write_job):
    """`--input` and `retry` take the very file, however young and without its marker, and leave it where it is."""
    write_job(
        scene.service.base_url,
        input={"paths": ["inbox/*.csv"], "done": "move", "settle_seconds": 600, "marker": ".done"},
        limits={"batch_size": 1},
    )
    path = put(scene, "a.csv", 0, old=False)
    scene.service.order(Fault(kind="status", status=400, times=1))
    first = run(scene, "--input", path)
    assert (first.code, first.counts["rows"]) == (5, 5)
    again = scene.do("retry", "latest", "--yes", "--json")
    assert (again.code, again.counts) == (0, {"rows": 1, "succeeded": 1})
    assert inbox(scene) == ["a.csv"]
    missing = run(scene, "--input", "inbox/b.csv")
    assert (missing.code, "no such file" in missing.err) == (4, True)


def test_retry_of_what_was_moved(scene):
    """A run's failure ledger is retried with the job's inbox set up, and the ledger stays in its folder."""
    put(scene, "a.csv", 0)
    scene.service.order(Fault(kind="status", status=400, times=1))
    assert run(scene).code == 5
    assert inbox(scene) == ["done/a.csv"]
    parent = scene.run_dir()
    assert scene.do("retry", "latest", "--yes", "--json").counts == {"rows": 5, "succeeded": 5}
    assert (parent / "failure.csv").is_file()
    assert not (parent / "done").exists()


def test_a_limit_leaves_the_file(scene):
    """While `--limit` left somebody out the file stays; the next runs take the rest, and the last one moves it."""
    put(scene, "a.csv", 0)
    assert run(scene, "--limit", "2").counts == {"rows": 5, "succeeded": 2, "not_attempted": 3}
    assert inbox(scene) == ["a.csv"]
    assert run(scene).counts == {"rows": 5, "succeeded": 3, "already_issued": 2}
    assert inbox(scene) == ["done/a.csv"]


def test_what_was_taken_is_not_found_again(scene, write_job):
    """A pattern that goes down into folders leaves `done` aside; a pattern whose folder is not there is a mistake."""
    write_job(scene.service.base_url, input={"paths": ["inbox/**/*.csv"], "done": "move"})
    put(scene, "a.csv", 0)
    assert run(scene).code == 0
    assert "nothing new" in run(scene).err
    write_job(scene.service.base_url, input={"paths": ["inbux/*.csv"], "done": "move"})
    mistyped = run(scene)
    assert (mistyped.code, "there is no folder" in mistyped.err) == (4, True)
