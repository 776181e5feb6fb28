"""
SIGKILL at every named place, on real processes; the stand-in's books are the judge.

Each place is tried twice: the killed run is taken up again, and a renamed copy of its input is started first.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from scene import KILLED, Scene, wait_until, without_answer

from bulkissue.failpoint import PLACES
from bulkissue.outcomes import Outcome
from bulkissue.sandbox import Fault, Running

#: Places a run passes many times are tried early, and in the middle.
CRASHES = [
    f"{place}:{number}"
    for place in PLACES
    for number in ((1, 7) if place in {"intent.noted", "answer.received", "answer.noted"} else (1,))
]
#: Before these the run's plan was not whole: there is nothing to resume, and nothing was sent.
UNPLANNED = PLACES[: PLACES.index("manifest.written")]
#: The places that taking a run up again, and settling it, passes.
SENDING = PLACES[PLACES.index("intent.noted") :]
SETTLING = PLACES[PLACES.index("sending.ended") :]
#: Rows that can be issued: 45 in batches of 5, 6 alone over the other route.
SENDABLE = 51


@pytest.fixture
def scene(tmp_path: Path, service: Running, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Scene:
    """A job on a messy file: three identifier types over two routes, a repeat, and a row that is refused unsent."""
    rows = [("id", str(5000 + n)) for n in range(24)]
    rows += [("mobile", f"9199860{n:05}") for n in range(21)]
    rows += [("external_id", f"00{n}") for n in range(6)]
    rows += [("mobile", "12"), ("id", "5000")]
    write_input(["type", "value"], rows)
    write_job(service.base_url, limits={"concurrency": 3, "batch_size": 5})
    return Scene(tmp_path, service)


def first_run(scene: Scene) -> Path | None:
    """The folder of the run that was killed, if it came so far."""
    return next(iter(scene.runs_dir.glob("*")), None)


def expect_books(found: dict[str, int], unknown: int) -> None:
    """Whatever happened, every row has its place."""
    expected = {"rows": 53, "succeeded": SENDABLE - unknown, "unknown": unknown, "rejected": 1, "duplicate": 1}
    assert found == {name: count for name, count in expected.items() if count}


@pytest.mark.parametrize("crash_at", CRASHES)
def test_killed_and_resumed(crash_at, scene):
    """A run killed at any place says where it stands, is resumed, and leaves unknown only what had no answer."""
    scene.run(crash_at)
    folder = first_run(scene)
    if folder is None or crash_at.partition(":")[0] in UNPLANNED:
        assert not scene.service.issued()
        if folder is not None:
            assert "sent nothing" in scene.do("status", folder).err
            assert "sent nothing" in scene.resume(folder).json["error"]["message"]
        ended, unknown = scene.run(), 0
    else:
        unknown = without_answer(folder)
        standing = scene.do("status", folder, "--json").json
        assert standing["state"] in {"interrupted", "completed"}
        assert sum(standing["counts"].values()) == 2 * 53, "the counts add up at any time"
        assert standing["counts"]["unknown"] == unknown
        ended = scene.resume()
    assert ended.code == (6 if unknown else 5), ended.err
    expect_books(ended.counts, unknown)
    judged = scene.judge()
    assert len(judged.issued | judged.in_doubt) == SENDABLE
    reasons = [row["_bi_reason"] for rows in judged.rows.values() for row in rows.values()]
    assert reasons.count("crash.no_answer") == unknown
    again = scene.resume(ended.json["run_id"])
    assert (again.code, again.counts) == (ended.code, ended.counts), "settled once more, harmlessly"


@pytest.mark.parametrize("crash_at", [place for place in CRASHES if not place.endswith(":7")])
def test_killed_and_started_again_under_another_name(crash_at, scene):
    """A renamed copy of the file issues nobody twice right after the crash, nor does the killed run afterwards."""
    scene.run(crash_at)
    killed = first_run(scene)
    unknown = without_answer(killed) if killed else 0
    issued_before = len(scene.service.issued())
    (scene.folder / "input.csv").rename(scene.folder / "copy.csv")
    second = scene.run(path="copy.csv")
    assert second.code == 5, second.err
    assert not second.counts.get("unknown")
    if not issued_before:
        assert second.counts["succeeded"] == SENDABLE - unknown
    if killed is not None and (killed / "run.json").exists():
        first = scene.resume(killed)
        assert first.code == (6 if unknown else 5), first.err
        assert first.counts.get("unknown", 0) == unknown
        assert sum(both.counts.get("succeeded", 0) for both in (first, second)) == SENDABLE - unknown
    judged = scene.judge()
    assert len(judged.issued | judged.in_doubt) == SENDABLE


@pytest.mark.parametrize("place", SENDING)
def test_killed_again_while_resumed(place, scene):
    """A run killed once more while it is resumed loses nothing and sends nothing twice."""
    scene.run("answer.received:2")
    folder = scene.run_dir()
    scene.do("resume", folder, "--yes", "--json", crash_at=f"{place}:2" if place in SENDING[:3] else place)
    unknown = without_answer(folder)
    assert scene.do("status", folder, "--json").json["counts"]["unknown"] == unknown
    ended = scene.resume(folder)
    assert ended.code == 6
    expect_books(ended.counts, unknown)
    judged = scene.judge()
    assert len(judged.issued | judged.in_doubt) == SENDABLE


@pytest.mark.parametrize("place", SETTLING)
def test_killed_while_a_person_settles(place, scene):
    """A settlement that was noted before the crash counts, and the run is settled with it afterwards."""
    scene.run("intent.noted")
    folder = scene.run_dir()
    ended = scene.resume(folder)
    lost = {
        (row["_bi_source_file"], row["_bi_row"])
        for row in scene.judge().rows[folder.name].values()
        if row["_bi_outcome"] == Outcome.UNKNOWN
    }
    rows = [argument for file, number in sorted(lost) for argument in ("--row", f"{file}:{number}")]
    word = [*rows, "--as", "not-issued", "--by", "Asha", "--evidence", "ticket 4711"]
    scene.do("resolve", folder, *word, crash_at=place)
    assert scene.do("status", folder).code == 0
    ended = scene.resume(folder)
    assert (ended.code, ended.counts.get("unknown")) == (5, None), ended.err
    assert ended.json["reasons"] == {"resolve.not_issued": len(lost), "validate.mobile_length": 1}
    again = scene.run()
    assert again.counts["succeeded"] == len(lost)
    assert len(scene.judge().issued) == SENDABLE


def test_killed_while_waiting_after_a_429(scene):
    """A batch whose only attempt was refused for haste before the kill is sent when the run is resumed."""
    scene.service.order(Fault(kind="status", status=429, retry_after=8, nth=(3, 4), route="bulk"))
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.service.stats()["requests"].get("bulk", {}).get("429"))
    wait_until(lambda: scene.do("status", "latest", "--json").json["waits"])
    assert scene.do("status", "latest", "--json").json["waited_seconds"] > 6
    started.kill()
    assert started.wait().code == KILLED
    unknown = without_answer(scene.run_dir())
    scene.service.clear()
    ended = scene.resume()
    assert ended.code == (6 if unknown else 5)
    expect_books(ended.counts, unknown)
    judged = scene.judge()
    assert "2" in {row["_bi_attempts"] for rows in judged.rows.values() for row in rows.values()}


def test_the_run_folder_is_gone_after_a_crash(scene):
    """The target stops while the run folder is away, and goes on once it is back, wherever it lay meanwhile."""
    scene.run("answer.noted:3")
    folder = scene.run_dir()
    away = scene.folder / "away"
    folder.rename(away)
    stopped = scene.run()
    assert (stopped.code, stopped.json["state"]) == (3, None)
    assert folder.name in stopped.json["error"]["message"]
    issued = len(scene.service.issued())
    unknown = without_answer(away)
    assert scene.resume(away).counts["succeeded"] == SENDABLE - unknown
    assert scene.run().counts["already_issued"] == SENDABLE
    assert len(scene.service.issued()) > issued
    away.rename(folder)
    scene.judge()
