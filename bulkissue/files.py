"""
Files that must survive a power cut, be whole when they have their name, and be read by nobody else.

The only place that renames, fsyncs or takes a kernel lock. It must never give a file its final name
before its bytes are on the disk.
"""

import errno
import fcntl
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_CHUNK = 1 << 20
_END = 1 << 14
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GET_GENERATION = 0x80087601  # FS_IOC_GETVERSION of linux/fs.h, as ext4, xfs and btrfs answer it


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, mode 0700, each fsynced into its parent. Existing ones stay."""
    missing = []
    place = path
    while not place.exists():
        missing.append(place)
        place = place.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another run made it between the look and now
            folder.mkdir(mode=0o700)
        sync_folder(folder)
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Put a folder's list of names on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """
    A file that takes the name `path` only when it is whole: temporary file, fsync, rename, fsync of the folder.

    Mode 0600. On an exception the temporary file goes and `path` stays as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file the careful way; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """
    For a block in which polars writes `path`.

    Raises:
        OSError: There is no room for it. Polars itself says that as if a file were broken.
    """
    try:
        yield
    except Exception as trouble:
        found = _OS_ERROR.search(str(trouble))
        if found and (number := int(found[1])) in _NO_ROOM:
            raise OSError(number, os.strerror(number), str(path)) from trouble
        raise


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """As `replacing`, for writers that want a path: give them the yielded one. It has mode 0600 before they open it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with room_for(path):
            yield partial
        partial.chmod(0o600)
        handle = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """What tells a file from an older one of its name at little cost: its size, and a digest of its two ends."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ends = file.read(_END)
        file.seek(max(0, size - _END))
        ends += file.read(_END)
    return f"{size}:{hashlib.sha256(ends).hexdigest()[:32]}"


def identity(path: Path) -> str:
    """
    What tells a file from its copies, also from one that takes its place: inode, and generation where there is one.

    A file system that knows no generations may give a copy the inode of a file that was deleted.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        inode = os.fstat(handle).st_ino
        with suppress(OSError):
            return f"{inode}.{int.from_bytes(fcntl.ioctl(handle, _GET_GENERATION, bytes(8)), sys.byteorder)}"
        return str(inode)
    finally:
        os.close(handle)


class KernelLock:
    """
    An exclusive lock that the kernel gives back when the process ends, however it ends.

    Holds among processes of one machine, on a local disk. The file's content says who holds it and is
    never trusted for anything but a message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, holder: str) -> bool:
        """
        Take the lock and write `holder` into the file; False where another process has it.

        Waits a tenth of a second at most, as somebody may only be asking (`is_held`). What is locked is the file that
        has the name then, and not one that was replaced while the lock was taken.
        """
        for _ in range(20):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                with suppress(BlockingIOError, FileNotFoundError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(handle), self.path.stat()):
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, holder.encode(), 0)
                        self._handle = handle
                        return True
            finally:
                if self._handle != handle:
                    os.close(handle)
            time.sleep(0.005)
        return False

    def is_held(self) -> bool:
        """Whether some process holds it at this moment; leaves no trace, and `take` bears with it."""
        try:
            handle = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def holder(self) -> str:
        """What the present holder wrote; empty if nothing."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def give_back(self) -> None:
        """Let the lock go. Harmless where it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
