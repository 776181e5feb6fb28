"""One key, several processes of one machine: together they use its allowance, and never pass it."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from conftest import ENVIRON
from scene import MOBILES, Scene

from bulkissue.send.pace import SPREAD, Pace
from bulkissue.state.allowance import Learnt, SharedAllowance

SENDER = """
import asyncio, sys, time
from pathlib import Path
from bulkissue.send.pace import SPREAD, Pace
from bulkissue.state.allowance import SharedAllowance

async def main(path, rate, seconds):
    pace = Pace(rate, clock=time.monotonic, sleep=asyncio.sleep, wall=time.time, allowance=SharedAllowance(Path(path)))
    ends = time.monotonic() + seconds
    async def lane():
        while True:
            await pace.slot()
            if time.monotonic() > ends:
                return
            print(time.monotonic(), flush=True)
            pace.accepted()
    await asyncio.gather(*[lane() for _ in range(4)])

asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
"""


def start(path, rate, seconds):
    command = [sys.executable, "-c", SENDER, str(path), str(rate), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def sent(processes):
    return sorted(float(line) for process in processes for line in process.communicate(timeout=60)[0].split())


def test_three_processes(tmp_path):
    """They use at least 95 % of an allowance of 600 a minute, and no second holds more than its share of it."""
    moments = sent([start(tmp_path / "key", 600, 6) for _ in range(3)])
    lasted = moments[-1] - moments[0]
    assert len(moments) >= 0.95 * 10 * lasted
    window: deque[float] = deque()
    for moment in moments:
        window.append(moment)
        while window[0] <= moment - 1.0:
            window.popleft()
        assert len(window) <= 12  # ten, and what may be late without losing its turn


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped(tmp_path, how):
    """The others go on at the whole pace."""
    gone, other = start(tmp_path / "key", 600, 20), start(tmp_path / "key", 600, 5)
    time.sleep(1.5)
    gone.send_signal(how)
    moments = sent([other])
    assert sum(moment > moments[-1] - 2 for moment in moments) >= 18
    gone.kill()
    gone.communicate()


def test_a_hold_holds_for_all(tmp_path):
    """What one process is told by the service, the others know; a new one as well."""
    clock = [1000.0]

    def pace():
        shared = SharedAllowance(tmp_path / "key")
        return Pace(600, clock=lambda: clock[0], sleep=asyncio.sleep, wall=time.time, allowance=shared)

    one, other = pace(), pace()
    one.accepted()
    one.refused(wait=30.0)
    assert other._take_slot() == pytest.approx(30)
    clock[0] += 31
    assert other._take_slot() == 0
    other.accepted()
    assert pace().requests_per_minute == one.requests_per_minute < 600


@pytest.mark.parametrize(
    "content",
    [b"", b"torn", bytes(300), b"\x81\xa6format\x02"],
    ids=["empty", "torn", "zeros", "another version"],
)
def test_a_file_that_cannot_be_used(tmp_path, content):
    """It is begun anew."""
    (tmp_path / "key").write_bytes(content)
    shared = SharedAllowance(tmp_path / "key")
    with shared.held(5.0) as known:
        assert known == Learnt(5.0, 5.0)
        known.next = 6.0
    with SharedAllowance(tmp_path / "key").held(5.0) as known:
        assert known.next == 6.0


def test_a_time_far_ahead(tmp_path):
    """What is of a clock that is not this one holds nobody for ever."""
    with SharedAllowance(tmp_path / "key").held(5.0) as known:
        known.held_until = 1e9
    with SharedAllowance(tmp_path / "key").held(5.0) as known:
        assert known.held_until < 5


def test_a_lock_that_does_not_come(tmp_path):
    """Somebody who holds the lock for long, or a folder that is gone, costs the sharing and not the run."""
    shared = SharedAllowance(tmp_path / "key")
    with shared.held(5.0) as known:
        known.next = 7.0
    handle = os.open(tmp_path / "key", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    began = time.monotonic()
    with shared.held(5.0) as known:
        assert known.next == 7.0
    assert time.monotonic() - began < 1
    os.close(handle)
    with SharedAllowance(tmp_path / "nowhere" / "key").held(5.0) as known:
        assert known.next == 5.0


DIES = """
import os, signal, sys
from pathlib import Path
from bulkissue.state.allowance import SharedAllowance

with SharedAllowance(Path(sys.argv[1])).held(5.0) as known:
    known.next = 9.0
with SharedAllowance(Path(sys.argv[1])).held(5.0) as known:
    known.next = 7.0
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_with_the_lock(tmp_path):
    """What was killed while it held the lock holds up nobody, and leaves what stood there before."""
    ended = subprocess.run([sys.executable, "-c", DIES, tmp_path / "key"], check=False)
    assert ended.returncode == -signal.SIGKILL
    began = time.monotonic()
    shared = SharedAllowance(tmp_path / "key")
    with shared.held(5.0) as known:
        assert known.next == 9.0
    assert shared._locked() is not None
    assert time.monotonic() - began < 0.03  # it is not waited for


def paced_by(path: Path) -> None:
    """Five requests through an allowance at that path take the time they must, and a hold holds."""
    clock = [1000.0]
    pace = Pace(60, clock=lambda: clock[0], sleep=asyncio.sleep, wall=time.time, allowance=SharedAllowance(path))
    for _ in range(5):
        while wait := pace._take_slot():
            clock[0] += wait
        pace.accepted()
    assert clock[0] - 1000 == pytest.approx(4 * SPREAD / 60)
    pace.refused(wait=30.0)
    assert pace._take_slot() == pytest.approx(30)


def test_a_disk_that_is_full():
    """Where nothing can be written, a process keeps its pace by what it knows itself."""
    paced_by(Path("/dev/full"))


def test_a_disk_that_is_read_only(tmp_path):
    """So it does where the file cannot be opened for writing, and where a folder is in its place."""
    paced_by(tmp_path)
    (tmp_path / "key").touch(0o400)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            (tmp_path / "key").open("r+b")
        paced_by(tmp_path / "key")
    finally:
        if root:
            os.seteuid(0)


def test_another_boot(tmp_path):
    """After a boot the clock has begun anew, and what the file says of moments means nothing."""
    before = SharedAllowance(tmp_path / "key")
    before._boot = "another"
    with before.held(5.0) as known:
        known.next = 50.0
    with SharedAllowance(tmp_path / "key").held(5.0) as known:
        assert known == Learnt(5.0, 5.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("level", 0.0), ("level", -5.0), ("stretch", 0.0), ("climbing_since", 1e9), ("began", float("nan"))],
)
def test_values_that_cannot_be(tmp_path, name, value):
    """A file that can be read and makes no sense is begun anew, too."""
    with SharedAllowance(tmp_path / "key").held(5.0) as known:
        known.level = 50.0
        setattr(known, name, value)
    with SharedAllowance(tmp_path / "key").held(5.0) as known:
        assert known == Learnt(5.0, 5.0)


def test_two_runs_at_once(tmp_path, serve, write_input, write_job):
    """Two targets under one key at a service that counts: it refuses none of their requests."""
    service = serve(requests_per_minute=1200)
    scene = Scene(tmp_path, service)
    for number, name in ((1, "one.toml"), (2, "two.toml")):
        write_input(["mobile"], MOBILES[:60], f"{number}.csv")
        target = {"program_id": 469, "promotion_id": number}
        limits = {"requests_per_minute": 1200, "batch_size": 1}
        write_job(service.base_url, name=name, target=target, input={"paths": [f"{number}.csv"]}, limits=limits)
    began = time.monotonic()
    runs = [scene.start("run", name, "--yes", "--json", environ=ENVIRON) for name in ("one.toml", "two.toml")]
    assert [run.wait().code for run in runs] == [0, 0]
    assert time.monotonic() - began >= 120 / 20 * 0.95  # twice as fast would be half of that
    assert "429" not in service.stats()["requests"]["bulk"]


def test_a_share(tmp_path, service, write_input, write_job):
    """With `max_requests_share` the rest is left to others."""
    write_input(["mobile"], MOBILES[:20])
    write_job(service.base_url, limits={"requests_per_minute": 600, "max_requests_share": 0.5, "batch_size": 1})
    began = time.monotonic()
    assert Scene(tmp_path, service).run().code == 0
    assert time.monotonic() - began >= 20 / 5 * 0.9
