"""Sending, and the guards on it: real requests to the stand-in, its books and its counts the judge."""

import asyncio
import dataclasses
import json
import resource
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import read_ledger
from scene import MOBILES, Scene, journal_rows, wait_until, without_answer

from bulkissue.errors import ExitCode
from bulkissue.exchange import Batch
from bulkissue.http.auth import Basic
from bulkissue.http.client import Lane
from bulkissue.job.model import GuardsSection, LimitsSection
from bulkissue.sandbox import Fault, Running
from bulkissue.send.dispatch import Dispatch
from bulkissue.send.guards import Guards, Halt
from bulkissue.service.answer import PromotionOrSeries
from bulkissue.state.journal import Journal


@pytest.fixture
def scene(tmp_path: Path, service: Running) -> Scene:
    return Scene(tmp_path, service)


@pytest.fixture
def prepare(scene: Scene, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Callable[..., None]:
    """Writes a job over some mobiles: batches of ten on four lanes, if nothing else is said."""

    def write(rows: int = 100, *, base_url: str = "", **tables: dict[str, Any]) -> None:
        write_input(["mobile"], MOBILES[:rows])
        limits = {"batch_size": 10, "concurrency": 4, "max_attempts": 3} | tables.pop("limits", {})
        write_job(base_url or scene.service.base_url, limits=limits, **tables)

    return write


def reasons(folder: Path, ledger: str) -> set[str]:
    return {row["_bi_reason"] for row in read_ledger(folder, ledger)}


# Guards


@pytest.mark.parametrize(
    ("settings", "fault", "reason", "code"),
    [
        ({"max_unknown": 15}, {"kind": "drop", "when": "after"}, "guard.max_unknown", 6),
        ({"max_failed": 15}, {"kind": "status", "status": 400}, "guard.max_failed", 7),
    ],
)
def test_a_guard_stops_a_run_that_can_be_resumed(settings, fault, reason, code, *, scene, prepare):
    """Beyond a limit the run drains, writes its ledgers, leaves the rest unsent, and goes on when resumed."""
    prepare(300, guards=settings)
    scene.service.order(Fault(**fault, nth=tuple(range(2, 20))))
    ended = scene.run()
    assert (ended.code, ended.json["state"], ended.json["stop"]["reason"]) == (code, "stopped", reason)
    assert ended.counts["not_attempted"] >= 300 - 10 - 15 - 4 * 10
    unsent = {row["_bi_reason"] for row in read_ledger(ended.run_dir, "failure") if not row["_bi_attempts"].strip("0")}
    assert unsent == {reason}
    scene.judge()
    scene.service.clear()
    resumed = scene.resume()
    assert (resumed.json["state"], resumed.counts.get("not_attempted")) == ("completed", None), resumed.err
    kept = {name: ended.counts.get(name) for name in ("failed", "unknown")}
    assert kept == {name: resumed.counts.get(name) for name in ("failed", "unknown")}
    scene.judge()


def test_too_large_a_share_of_failed_rows(scene, prepare):
    """Half of the answered rows failed, after enough of them: the run stops long before max_failed."""
    prepare(400, guards={"max_failed_ratio": 0.4}, limits={"concurrency": 1})
    scene.service.order(Fault(kind="status", status=400, nth=tuple(range(2, 40, 2))))
    ended = scene.run()
    assert (ended.code, ended.json["stop"]["reason"]) == (7, "guard.max_failed_ratio")
    assert ended.counts == {"rows": 400, "succeeded": 100, "failed": 100, "not_attempted": 200}


def test_the_canary_goes_alone(serve, tmp_path, write_job, write_input):
    """Until the first success one request at a time is in flight, and then as many as there are lanes."""
    service = serve(magic=True, latency_seconds=0.03)
    nobody = [(f"9199{n:04}8015",) for n in range(15)]
    write_input(["mobile"], [*nobody, *MOBILES[:60]])
    write_job(service.base_url, limits={"batch_size": 5, "concurrency": 4})
    scene = Scene(tmp_path, service)
    ended = scene.run()
    assert ended.counts == {"rows": 75, "succeeded": 60, "failed": 15}
    query = "SELECT sent_at, answered_at FROM intent JOIN answer USING (attempt) ORDER BY attempt"
    times = list(journal_rows(ended.run_dir, query))
    alone = [later[0] >= earlier[1] for earlier, later in pairwise(times)]
    assert alone[:4] == [True] * 4, "three batches of refusals, and the first success"
    assert not all(alone[4:]), "then side by side"


def test_the_canary_falls_silent(serve, tmp_path, write_job, write_input):
    """Where nobody of the first rows is issued, the run stops after canary_rows, not after a thousand."""
    service = serve(magic=True)
    write_input(["mobile"], [(f"9199{n:04}8015",) for n in range(200)])
    write_job(service.base_url, limits={"batch_size": 5, "concurrency": 4}, guards={"canary_rows": 12})
    scene = Scene(tmp_path, service)
    ended = scene.run()
    assert (ended.code, ended.json["stop"]["reason"]) == (7, "guard.canary")
    assert ended.counts == {"rows": 200, "failed": 15, "not_attempted": 185}
    assert scene.writes() == 3


def test_a_refusal_every_row_would_meet(serve, tmp_path, write_job, write_input):
    """A code about the promotion stops the run after one request; the rest is not attempted."""
    service = serve(magic=True)
    write_input(["mobile"], MOBILES[:100])
    write_job(
        service.base_url, target={"program_id": 469, "promotion_id": 8892}, limits={"batch_size": 5, "concurrency": 4}
    )
    scene = Scene(tmp_path, service)
    ended = scene.run()
    assert (ended.code, ended.json["stop"]["reason"]) == (7, "guard.refusal")
    assert "8892" in ended.json["stop"]["message"]
    assert ended.counts == {"rows": 100, "failed": 5, "not_attempted": 95}
    assert scene.writes() == 1


def test_throttled_too_long(scene, prepare):
    """A wait of more than five minutes is not waited for: exit 7, and nothing is lost."""
    prepare(100)
    scene.service.order(Fault(kind="status", status=429, retry_after=400, nth=(3,)))
    ended = scene.run()
    assert (ended.code, ended.json["stop"]["reason"]) == (7, "guard.throttled")
    assert not ended.counts.get("failed")
    assert scene.resume().counts == {"rows": 100, "succeeded": 100}
    scene.judge()


@pytest.mark.parametrize(("retry_after", "code"), [(1, 0), (400, 7)])
def test_throttled_before_there_is_a_token(retry_after, code, *, scene, prepare):
    """A token request refused for haste is waited for like any other, within the same five minutes."""
    prepare(30)
    scene.service.order(Fault(kind="status", status=429, retry_after=retry_after, nth=(1, 2), route="token"))
    ended = scene.run()
    assert ended.code == code
    assert ended.counts == {"rows": 30, "succeeded": 30} if code == 0 else {"rows": 30, "not_attempted": 30}
    assert (ended.json["stop"] or {}).get("reason") == (None if code == 0 else "guard.throttled")
    assert ended.json["attempts"] == scene.writes()


# What is sent again


def test_a_batch_too_large_is_cut(serve, tmp_path, write_job, write_input):
    """A batch refused as too large is cut smaller and sent in parts, each customer once; later ones at that size."""
    service = serve(batch_limit=10)
    write_input(["mobile"], MOBILES[:150])
    write_job(service.base_url, limits={"batch_size": 100, "concurrency": 2})
    scene = Scene(tmp_path, service)
    ended = scene.run()
    assert (ended.code, ended.counts) == (0, {"rows": 150, "succeeded": 150})
    assert "batch.cut" in ended.err
    assert ended.json["attempts"] < 30
    scene.judge()


@pytest.mark.parametrize("kind", ["token_expired", "unauthorized"])
def test_a_token_that_is_refused_is_renewed(kind, serve, tmp_path, write_job, write_input):
    """Whatever number of lanes meet 498 or 401 with one token, one new token is fetched, and nobody fails for it."""
    service = serve(latency_seconds=0.05)
    service.order(Fault(kind=kind, nth=(2, 4)))
    write_input(["mobile"], MOBILES[:100])
    write_job(service.base_url, limits={"batch_size": 10, "concurrency": 4, "max_attempts": 1})
    scene = Scene(tmp_path, service)
    ended = scene.run()
    assert (ended.code, ended.counts) == (0, {"rows": 100, "succeeded": 100})
    assert service.stats()["requests"]["token"] == {"200": 2}
    scene.judge()


def test_credentials_refused_with_a_fresh_token(scene, prepare):
    """Where a fresh token is refused too, the run stops with exit 3, and goes on once the credentials will do."""
    prepare(100)
    scene.service.order(Fault(kind="unauthorized", rate=1.0))
    ended = scene.run()
    assert (ended.code, ended.json["stop"]["reason"]) == (3, "guard.credentials")
    assert ended.counts == {"rows": 100, "not_attempted": 100}
    assert scene.writes() == 2
    scene.service.clear()
    assert scene.resume().counts == {"rows": 100, "succeeded": 100}
    scene.judge()


# Outages


def test_the_service_is_lost_and_found(scene, prepare):
    """While connections are refused the run waits and probes, and then goes on; nobody fails for it."""
    # Lanes that still have a connection get through meanwhile, so that a refusal may count against a batch.
    prepare(300, limits={"max_attempts": 10})
    scene.service.order(Fault(kind="close_listener", seconds=1.2, nth=(8,)))
    ended = scene.run()
    assert (ended.code, ended.counts) == (0, {"rows": 300, "succeeded": 300}), ended.err
    assert "service.lost" in ended.err
    assert "service.found" in ended.err
    scene.judge()


TO_ISSUE = PromotionOrSeries("earn", program_id="469", promotion_id="69218")


def send(
    base_url: str,
    folder: Path,
    *,
    lanes: int = 4,
    batches: int = 30,
    canary: bool = True,
    to_issue: PromotionOrSeries = TO_ISSUE,
) -> tuple[Halt | None, Guards]:
    """Sends batches of two with short probes; how it stopped, and what was counted."""
    guards = Guards(GuardsSection(canary=canary, canary_rows=10))
    limits = LimitsSection(requests_per_minute=600_000, concurrency=lanes, batch_size=2, max_attempts=3)

    async def life() -> Halt | None:
        journal = Journal.create(folder / "journal.db", run_id="a run", plan_sha256="")
        pairs = [
            Batch(
                n + 1,
                "bulk",
                "mobile",
                [2 * n, 2 * n + 1],
                [MOBILES[2 * n][0], MOBILES[2 * n + 1][0]],
                ["ALL"] * 2,
                [""] * 2,
            )
            for n in range(batches)
        ]
        dispatch = Dispatch(
            batches=iter(pairs),
            journal=journal,
            lanes=[Lane(base_url, connect_timeout=2, read_timeout=2, trust_env=False) for _ in range(lanes)],
            make_auth=lambda _: Basic("till", "secret"),
            to_issue=to_issue,
            guards=guards,
            limits=limits,
            probe_seconds=(0.01, 0.02, 0.04),
        )
        try:
            return await dispatch.run()
        finally:
            journal.close()

    return asyncio.run(life()), guards


def test_a_fault_in_reading_keeps_the_answer(service, tmp_path):
    """Where reading an answer fails for a fault of the program, the run ends, and the answer is in the journal."""
    # Builds a request, and nothing can be held against it.
    no_text = dataclasses.replace(TO_ISSUE, program_id=469)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        send(service.base_url, tmp_path, lanes=1, to_issue=no_text)
    ((results, status, body),) = journal_rows(tmp_path, "SELECT results, http_status, body FROM answer")
    assert (json.loads(results)["outcome"], status) == ("unknown", 200)
    proofs = [item["result"]["earnedId"] for item in json.loads(body)["response"]]
    assert proofs == [one["reference"] for one in service.issued()]


def test_the_service_does_not_come_back(service, tmp_path):
    """In an outage the run stops after the last probe; nothing is unknown, and nobody failed for it."""
    service.order(Fault(kind="close_listener", seconds=60, nth=(5,)))
    halt, guards = send(service.base_url, tmp_path)
    assert halt is not None
    assert (halt.reason, halt.exit_code) == ("guard.outage", ExitCode.STOPPED)
    issued = len(service.issued())
    assert guards.counters.rows["succeeded"] == issued
    assert not guards.counters.rows["unknown"]
    query = "SELECT count(*) FROM intent JOIN answer USING (attempt) WHERE void IS NULL"
    assert list(journal_rows(tmp_path, query)) == [(issued // 2,)]


@pytest.mark.parametrize("batches", [1, 30])
def test_the_service_was_never_there(batches, tmp_path):
    """Where nothing listens from the start, the run stops as in any outage: no row is failed."""
    halt, guards = send("http://127.0.0.1:9", tmp_path, batches=batches)
    assert halt is not None
    assert halt.reason == "guard.outage"
    assert not guards.counters.answered


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number, serve, tmp_path, write_job, write_input):
    """What is in flight is awaited, ledgers are written, exit 8; resume sends the rest."""
    service = serve(latency_seconds=0.1)
    write_input(["mobile"], MOBILES[:300])
    write_job(service.base_url, limits={"batch_size": 5, "concurrency": 3})
    scene = Scene(tmp_path, service)
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 4)
    started.kill(number)
    ended = started.wait()
    assert (ended.code, ended.json["state"], ended.json["stop"]["reason"]) == (8, "interrupted", "guard.signal")
    assert ended.counts["succeeded"] == len(service.issued())
    assert ended.counts["succeeded"] + ended.counts["not_attempted"] == 300
    assert reasons(ended.run_dir, "failure") == {"guard.signal"}
    resumed = scene.resume()
    assert (resumed.code, resumed.counts) == (0, {"rows": 300, "succeeded": 300})
    scene.judge()


def test_the_second_sigterm_gives_up_what_is_in_flight(scene, prepare):
    """What is in flight then is unknown, the ledgers are written at once, and no further signal disturbs that."""
    prepare(100)
    scene.service.order(Fault(kind="slow", seconds=20, when="after", nth=(6, 7)))
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: len(scene.service.issued()) == 100)
    run_dir = scene.run_dir()
    # The answers that are not slow are on the disk, however busy the machine is.
    answered = "SELECT count(*) FROM answer WHERE answered_at IS NOT NULL"
    wait_until(lambda: list(journal_rows(run_dir, answered)) == [(8,)])
    started.kill(signal.SIGTERM)
    assert started.alive
    while started.alive and json.loads((run_dir / "run.json").read_text())["exit_code"] is None:
        started.kill(signal.SIGTERM)
    ended = started.wait(10)
    assert json.loads((run_dir / "run.json").read_text())["exit_code"] == 6, ended.err
    found = read_ledger(run_dir, "unknown")
    assert len(found) == 20
    assert {row["_bi_reason"] for row in found} == {"net.cancelled"}
    resumed = scene.resume()
    assert (resumed.code, resumed.counts) == (6, {"rows": 100, "succeeded": 80, "unknown": 20})
    scene.judge()


# Storage that fails


def test_the_journal_cannot_grow(scene, prepare):
    """On a full disk the run stops before the next send and says so; with room again it is resumed."""
    prepare(500, limits={"batch_size": 2})
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 20)
    full = 200_000
    resource.prlimit(started.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    ended = started.wait()
    assert ended.code == (6 if without_answer(scene.run_dir()) else 3), (ended.out, ended.err)
    assert "journal.db" in ended.json["error"]["message"]
    assert "resume" in ended.json["error"]["hint"]
    run_dir = scene.run_dir()
    assert (ended.json["run_id"], ended.json["run_dir"]) == (run_dir.name, str(run_dir))
    noted = sum(len(json.loads(rows)) for (rows,) in journal_rows(run_dir, "SELECT rows FROM intent"))
    assert 40 <= len(scene.service.issued()) <= noted < 500
    assert scene.do("status", run_dir, "--json").json["state"] == "interrupted"
    still_full = scene.do("resume", run_dir, "--yes", "--json", file_size=10_000)
    assert still_full.code == 3, still_full.err
    unknown = without_answer(run_dir)
    assert unknown <= 4 * 2
    resumed = scene.resume()
    assert resumed.counts == {
        name: count for name, count in {"rows": 500, "succeeded": 500 - unknown, "unknown": unknown}.items() if count
    }
    scene.judge()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB, as a folder."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(path):
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


def test_a_full_disk(small_disk, service, write_input, write_job):
    """What was on its way when the disk got full is noted in the room that was kept for it: nothing is unknown."""
    write_input(["mobile"], MOBILES, name="small/input.csv")
    write_job(
        service.base_url, name="small/job.toml", limits={"batch_size": 2, "concurrency": 8, "requests_per_minute": 3000}
    )
    scene = Scene(small_disk, service)
    started = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 20)
    fill(small_disk / "filler")
    ended = started.wait()
    (small_disk / "filler").unlink()
    assert ended.code == 3, (ended.out, ended.err)
    run_dir = scene.run_dir()
    assert without_answer(run_dir) == 0
    assert 40 <= len(service.issued()) < 500
    assert not list(run_dir.glob(".reserve"))
    assert scene.resume().counts == {"rows": 500, "succeeded": 500}
    assert len(service.issued()) == 500
    scene.judge()


def test_a_disk_without_room_for_the_answers(small_disk, service, write_input, write_job):
    """Where not even the reserve fits, nothing is sent; with room the run is resumed."""
    write_input(["mobile"], MOBILES, name="small/input.csv")
    write_job(service.base_url, name="small/job.toml")
    with (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(36 << 20))
    scene = Scene(small_disk, service)
    ended = scene.do("run", "job.toml", "--yes", "--json")
    assert (ended.code, service.issued()) == (3, [])
    assert "has less than 8 MiB left" in ended.json["error"]["message"]
    (small_disk / "filler").unlink()
    assert scene.resume().counts == {"rows": 500, "succeeded": 500}


def test_the_books_cannot_be_written(scene, prepare, write_input):
    """Where the disk is full once everything is sent, that is said, and a resume writes the books and sends nothing."""
    prepare(500, limits={"batch_size": 100})
    # Only the ledgers outgrow the limit: Parquet and the journal do not repeat a long cell in every row.
    write_input(["mobile", "note"], [(mobile, "n" * 4_000) for (mobile,) in MOBILES[:500]])
    ended = scene.do("run", "job.toml", "--yes", "--json", file_size=1_000_000)
    assert ended.code == 3, (ended.out, ended.err)
    assert "the books of run" in ended.json["error"]["message"]
    assert "resume" in ended.json["error"]["hint"]
    assert ended.json["run_id"] == scene.run_dir().name
    assert (len(scene.service.issued()), scene.writes()) == (500, 5)
    assert scene.resume().counts == {"rows": 500, "succeeded": 500}
    assert scene.writes() == 5
    scene.judge()


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_no_room_for_the_input(quote, *, scene, prepare):
    """Where the disk is full before anything is sent, the disk is blamed and not the input, and no run is left."""
    prepare(1, limits={"batch_size": 100})
    numbers = "\n".join(f"{quote}9190{number * 7_919_317 % 10**8:08}{quote}" for number in range(5_000))
    (scene.folder / "input.csv").write_text(f"mobile\n{numbers}\n")
    refused = scene.do("run", "job.toml", "--yes", "--json", file_size=10_000)
    assert refused.code == 3, (refused.out, refused.err)
    assert "File too large: " in refused.json["error"]["message"]
    assert not list((scene.folder / "runs").iterdir())
    assert scene.do("run", "job.toml", "--yes", "--json").counts == {"rows": 5_000, "succeeded": 5_000}


@pytest.mark.parametrize("folder", ["runs", "runs/*", "state", "state/*/*/*/history"])
def test_a_read_only_folder(folder, scene, prepare):
    """A folder that cannot be written stops the run with a clear error, nothing is sent twice, and it is resumed."""
    prepare(100, limits={"concurrency": 1})
    scene.service.order(Fault(kind="drop", nth=(3,)))
    first = scene.do("run", "job.toml", "--limit", "0", "--yes", "--json")  # makes the folders
    assert first.code == 0
    scene.service.order(Fault(kind="slow", seconds=0.5, when="before", nth=(4,)))
    started = scene.start("run", "job.toml", "--yes", "--json", unprivileged=True)
    wait_until(lambda: scene.writes() >= 3)
    run_dir = scene.run_dir()
    locked = max(scene.folder.glob(folder))
    locked.chmod(0o500)
    ended = started.wait()
    expected = {"runs": 6, "state": 6}.get(folder, 3)
    assert ended.code == expected, (ended.out, ended.err)
    if expected == 3:
        assert str(locked) in ended.json["error"]["message"]
        again = scene.do("resume", run_dir, "--yes", "--json", unprivileged=True)
        assert again.code == 3
        assert str(locked) in again.json["error"]["message"]
    locked.chmod(0o700)
    resumed = scene.do("resume", run_dir, "--yes", "--json", unprivileged=True)
    assert (resumed.code, resumed.counts) == (6, {"rows": 100, "succeeded": 90, "unknown": 10}), resumed.err
    scene.judge()


@pytest.mark.parametrize("folder", ["state", "runs"])
def test_a_read_only_folder_at_the_start(folder, scene, prepare):
    """Nothing is sent where the state folder or the runs folder cannot be written."""
    prepare(10)
    (scene.folder / folder).mkdir(mode=0o500)
    ended = scene.do("run", "job.toml", "--yes", "--json", unprivileged=True)
    assert ended.code == 3
    assert str(scene.folder / folder) in ended.json["error"]["message"]
    assert not scene.service.issued()
