"""Files: whole when they have their name, on the disk, for their owner only; and a lock that the kernel gives back."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest

from bulkissue.files import KernelLock, make_folder, replacing, replacing_path, sha256, sync_folder, write_whole


@contextmanager
def by_file(path: Path) -> Iterator[Callable[[bytes], object]]:
    with replacing(path) as file:
        yield file.write


@contextmanager
def by_path(path: Path) -> Iterator[Callable[[bytes], object]]:
    with replacing_path(path) as partial:
        yield partial.write_bytes


Way = Callable[[Path], AbstractContextManager[Callable[[bytes], object]]]
EACH = pytest.mark.parametrize("way", [by_file, by_path])


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is put on the disk and renamed, as it happens: the real calls, written down."""
    story: list[str] = []
    fsync, replace, mkdir = os.fsync, Path.replace, Path.mkdir

    def noting_fsync(handle: int) -> None:
        story.append(f"fsync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        fsync(handle)

    def noting_replace(self: Path, target: Path) -> Path:
        story.append(f"{self.name} becomes {target.name}")
        return replace(self, target)

    def noting_mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        story.append(f"mkdir {self.name}")
        mkdir(self, mode, parents, exist_ok)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    monkeypatch.setattr(Path, "mkdir", noting_mkdir)
    return story


@EACH
def test_whole_when_named(tmp_path: Path, way: Way, order: list[str]) -> None:
    """The content is on the disk before the file has its name, and the name before the block is left."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    with way(path) as write:
        write(b"new" * 100_000)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" * 100_000
    assert order == ["fsync .a.csv.partial", ".a.csv.partial becomes a.csv", f"fsync {tmp_path.name}"]
    assert list(tmp_path.iterdir()) == [path]


@EACH
@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_failure_changes_nothing(tmp_path: Path, way: Way, failure: type[BaseException]) -> None:
    """Where writing fails, the old file stays as it was and nothing else is left."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")

    def fail(_: object) -> None:
        raise failure

    with pytest.raises(failure), way(path) as write:
        fail(write(b"new"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@EACH
def test_leftovers(tmp_path: Path, way: Way) -> None:
    """What a killed process left half-written does not get into the file, whatever it was."""
    path = tmp_path / "a.csv"
    partial = tmp_path / ".a.csv.partial"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    for leave in (lambda: partial.write_bytes(b"x" * 1_000), lambda: partial.symlink_to(elsewhere)):
        leave()
        with way(path) as write:
            write(b"new")
        assert path.read_bytes() == b"new"
        assert not path.is_symlink()
    assert elsewhere.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [path, elsewhere]


@EACH
@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_private(tmp_path: Path, way: Way, umask: int) -> None:
    """A file is for its owner only from its first byte, whatever the umask."""
    path = tmp_path / "a.csv"
    before = os.umask(umask)
    try:
        with way(path) as write:
            assert (tmp_path / ".a.csv.partial").stat().st_mode & 0o777 == 0o600
            write(b"new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_private_whatever_the_writer(tmp_path: Path) -> None:
    """A writer that opens its file up, or puts another in its place, does not hand it to others."""
    with replacing_path(tmp_path / "a") as partial:
        partial.unlink()
        partial.write_bytes(b"new")
        partial.chmod(0o644)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_write_whole(tmp_path: Path) -> None:
    """A small file is written whole, and replaced whole."""
    for content in (b"one", b"two, longer", b""):
        write_whole(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "a", b"")


def test_killed_while_writing(tmp_path: Path) -> None:
    """Killed at random instants, a writer leaves the old file or the new one, never a part."""
    path = tmp_path / "a"
    write_whole(path, b"0" * 100_000)
    program = """
import sys
from pathlib import Path
from bulkissue.files import write_whole
print("ready", flush=True)
number = 0
while True:
    number += 1
    write_whole(Path(sys.argv[1]), str(number % 10).encode() * 100_000)
"""
    contents = set()
    for wait in (0.002, 0.005, 0.011, 0.017, 0.031):
        with running(program, path) as process:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            process.wait()
        content = path.read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1
        contents.add(content[:1])
    assert len(contents) > 1


def test_make_folder(tmp_path: Path, order: list[str]) -> None:
    """A folder and its missing parents are made for their owner only, each on the disk in its parent."""
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert order == ["mkdir a", "fsync a", f"fsync {tmp_path.name}", "mkdir b", "fsync b", "fsync a"]
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]


def test_make_folder_again(tmp_path: Path, order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there stays as it is; a relative one is made below the working folder."""
    tmp_path.chmod(0o750)
    make_folder(tmp_path)
    assert order == []
    assert tmp_path.stat().st_mode & 0o777 == 0o750
    monkeypatch.chdir(tmp_path)
    make_folder(Path("c/d"))
    assert (tmp_path / "c" / "d").is_dir()


def test_make_folder_in_the_way(tmp_path: Path) -> None:
    """Where a file has the name of a parent, no folder is made and the file stays."""
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_make_folder_at_once(tmp_path: Path) -> None:
    """Several processes that make the same folders at once all succeed."""
    program = """
import sys
from pathlib import Path
from bulkissue.files import make_folder
print("ready", flush=True)
sys.stdin.read()
for number in range(100):
    make_folder(Path(sys.argv[1]) / str(number) / "a" / "b")
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    assert [process.communicate()[1] for process in started] == [b"", b"", b""]
    assert len(list(tmp_path.glob("*/a/b"))) == 100


def test_sync_folder(tmp_path: Path) -> None:
    """Only a folder is synced as one."""
    sync_folder(tmp_path)
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "a")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sha256(tmp_path: Path, size: int) -> None:
    """A file's digest is that of its bytes, whatever its size."""
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert sha256(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


# The lock.

HOLDS = """
import sys
from pathlib import Path
from bulkissue.files import KernelLock
lock = KernelLock(Path(sys.argv[1]))
assert lock.take("run r1 on host h since noon")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said it is ready; it ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        output: IO[bytes] | None = process.stdout
        assert output is not None
        assert output.readline() == b"ready\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_lock_among_processes(tmp_path: Path) -> None:
    """While one process has the lock no other gets it, and the other can say who has it."""
    path = tmp_path / "lock"
    lock = KernelLock(path)
    with running(HOLDS, path) as process:
        assert not lock.take("me")
        assert lock.is_held()
        assert lock.holder() == "run r1 on host h since noon"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
        process.stdin = None
    assert not lock.is_held()
    assert lock.take("me")
    assert lock.holder() == "me"
    lock.give_back()


def test_lock_of_a_killed_process(tmp_path: Path) -> None:
    """The lock of a killed process is free at once, though the file still names the dead."""
    path = tmp_path / "lock"
    with running(HOLDS, path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    lock = KernelLock(path)
    assert not lock.is_held()
    assert lock.holder() == "run r1 on host h since noon"
    assert lock.take("x")
    assert lock.holder() == "x"
    lock.give_back()


def test_lock_is_not_inherited(tmp_path: Path) -> None:
    """A program that the holder starts, and that outlives it, does not keep the lock."""
    path = tmp_path / "lock"
    child = """
import subprocess
child = subprocess.Popen(["sleep", "30"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
Path(sys.argv[1] + ".pid").write_text(str(child.pid))
"""
    program = HOLDS.replace("print(", child + "print(")
    with running(program, path) as process:
        assert KernelLock(path).is_held()
        process.send_signal(signal.SIGKILL)
        process.wait()
        pid = int(path.with_name("lock.pid").read_text())
        os.kill(pid, 0)
        try:
            assert not KernelLock(path).is_held()
        finally:
            os.kill(pid, signal.SIGKILL)


def test_lock_in_one_process(tmp_path: Path) -> None:
    """A lock excludes a second one in the same process too, is not taken twice, and may be given back twice."""
    one, other = KernelLock(tmp_path / "lock"), KernelLock(tmp_path / "lock")
    assert one.holder() == ""
    assert not one.is_held()
    assert one.take("one")
    assert not one.take("again")
    assert not other.take("other")
    assert one.holder() == "one"
    assert (tmp_path / "lock").stat().st_mode & 0o077 == 0
    one.give_back()
    one.give_back()
    assert other.take("other")
    other.give_back()


def test_asking_does_not_hold_anyone_up(tmp_path: Path) -> None:
    """Who asks at the same moment whether the lock is held neither makes a taker fail nor seems to hold it."""
    lock = KernelLock(tmp_path / "lock")
    handle = os.open(lock.path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as `is_held` does for a moment
    assert not lock.is_held()
    asked = threading.Timer(0.03, os.close, [handle])
    asked.start()
    assert lock.take("me")
    asked.join()
    assert lock.is_held()
    lock.give_back()


def test_lock_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the holder's name cannot be written, the lock is not kept either."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    lock = KernelLock(tmp_path / "lock")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            lock.take("me")
    assert not lock.is_held()
    assert lock.take("me")
    lock.give_back()
    with pytest.raises(FileNotFoundError):
        KernelLock(tmp_path / "nowhere" / "lock").take("me")
