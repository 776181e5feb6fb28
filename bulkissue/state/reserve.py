"""
A reserve on the disk: room that is given back when the disk is full, for the answers that are still on their way.

It must never keep a run from being sent where a file system cannot reserve room; it only makes a full disk cost less.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkissue.errors import StateRefused

#: Bytes; the answers of all lanes at once, with their bodies, and the journal's pages around them.
SIZE = 8 << 20
_NAME = ".reserve"


class Reserve:
    """Room in a run folder."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def give_back(self) -> bool:
        """Give the room back; whether there was any."""
        path, self._path = self._path, None
        if path is None:
            return False
        path.unlink(missing_ok=True)
        return True


@contextmanager
def reserved(folder: Path) -> Iterator[Reserve]:
    """
    Room in a run folder, until the block ends.

    Raises:
        StateRefused: The disk has less than that: nothing may be sent whose answer could not be noted.
    """
    path = folder / _NAME
    reserve = Reserve(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, SIZE)
    except OSError as trouble:
        reserve.give_back()
        if trouble.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StateRefused(
                f"the disk of {folder} has less than {SIZE >> 20} MiB left", hint="free some, then bulkissue resume"
            ) from trouble
    finally:
        os.close(handle)
    try:
        yield reserve
    finally:
        reserve.give_back()
