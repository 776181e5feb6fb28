"""
The allowance of a key: what several processes of one machine share, so that together they never pass it.

A small file for each key in the state folder holds when the next request may leave, and what was learnt of the
service; a kernel lock is held for the microseconds in which it is read and written. It must never stop a run: where it
cannot be had, a process goes by what it knows itself.
"""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec

from bulkissue.files import make_folder
from bulkissue.state.history import read_digests

_FORMAT = 1
_PATIENCE = 40
_PAUSE_SECONDS = 0.001
#: Seconds. A file that speaks of a time further ahead is of another boot, or broken.
_FURTHEST = 3600.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Window(msgspec.Struct):
    """
    The service's window, as its headers tell of it; moments as in `Learnt`.

    Attributes:
        per_minute: Requests per minute that it says it takes.
        named: The end that was named first.
        ends: The latest end that was named for the same window.
        since: When it was first named.
        left: The least that was left.
        most: The most that was left.
        next: When, by that, the next request may leave.
        answers: Requests it took and told about, of this window.
        believed: Whether several answers agreed on one end.
        empty: Windows in a row that were used up as they began.
        doubted_until: Until when its headers are not looked at.
    """

    per_minute: float = math.inf
    named: float = -math.inf
    ends: float = -math.inf
    since: float = -math.inf
    left: float = math.inf
    most: float = 0.0
    next: float = -math.inf
    answers: int = 0
    believed: bool = False
    empty: int = 0
    doubted_until: float = -math.inf


class Learnt(msgspec.Struct):
    """
    What is known of a key's allowance; moments are seconds of the machine's monotonic clock.

    Attributes:
        began: When somebody began to send.
        next: When the next request may leave.
        held_since: When the present hold began.
        held_until: Until when nothing leaves.
        holds_in_a_row: Holds since the service last took a request.
        refusals: Of the present hold.
        taken: Requests that were taken in the minute before the present hold.
        accepted: How many requests were taken, by second.
        taken_since: Requests that were taken since the last hold.
        step: The share by which the last refusal slowed the pace.
        refused_at: The pace when the present hold began, requests per minute.
        troubles_in_a_row: Answers that prove nothing, since the service last took a request.
        refused_last: When the last refusal came.
        minutes: Bits of evidence that the service's windows are minutes.
        level: The pace that was refused and is climbed to; None where nothing has to be climbed.
        climbing_since: Since when.
        slowed_to: From which pace.
        stretch: How much slower than usual.
        most: The greatest pace of anybody who sends under this key.
        trouble: Whether the last hold or slow-down was for an answer that proves nothing, and not for a refusal.
        window: What the service's headers tell.
    """

    began: float
    next: float
    held_since: float = -math.inf
    held_until: float = -math.inf
    holds_in_a_row: int = 0
    refusals: int = 0
    taken: int = 0
    accepted: dict[int, int] = {}
    taken_since: int = 0
    step: float = 0.0
    refused_at: float = math.inf
    troubles_in_a_row: int = 0
    refused_last: float = -math.inf
    minutes: float = 0.0
    level: float | None = None
    climbing_since: float = 0.0
    slowed_to: float = math.inf
    stretch: float = 1.0
    most: float = 0.0
    trouble: bool = False
    window: Window = msgspec.field(default_factory=Window)


class Allowance(Protocol):
    """Where what is known of a key's allowance is kept."""

    def held(self, now: float) -> AbstractContextManager[Learnt]:
        """What is known, for reading and changing within the block; begun at `now` where there is nothing."""


class OwnAllowance:
    """What one process knows by itself."""

    def __init__(self) -> None:
        self._learnt: Learnt | None = None

    @contextmanager
    def held(self, now: float) -> Iterator[Learnt]:
        """As `Allowance`."""
        if self._learnt is None:
            self._learnt = Learnt(now, now)
        yield self._learnt


class _File(msgspec.Struct):
    format: int
    boot: str
    learnt: Learnt


class SharedAllowance:
    """
    What all processes of this machine know of a key.

    Args:
        path: The key's file; it is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(_File).decode
        self._known: Learnt | None = None
        self._written = True

    @contextmanager
    def held(self, now: float) -> Iterator[Learnt]:
        """As `Allowance`. Where the file cannot be had or written, what this process knew last is changed instead."""
        handle = self._locked()
        try:
            learnt = self._read(handle, now) if handle is not None and self._written else self._known
            if learnt is None:
                learnt = Learnt(now, now)
            try:
                yield learnt
            finally:
                self._known = learnt
                if handle is not None:
                    self._written = self._write(handle, learnt)
        finally:
            if handle is not None:
                os.close(handle)

    def _locked(self) -> int | None:
        """The file, locked; None where it cannot be written, or somebody who was stopped holds it."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        for _ in range(_PATIENCE):
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            time.sleep(_PAUSE_SECONDS)
        os.close(handle)
        return None

    def _read(self, handle: int, now: float) -> Learnt | None:
        try:
            found = self._decode(os.pread(handle, 1 << 16, 0))
        except msgspec.DecodeError:
            return None
        learnt = found.learnt
        moments = (learnt.next, learnt.held_until, learnt.began, learnt.climbing_since, learnt.window.ends)
        sound = all(moment < now + _FURTHEST for moment in moments)
        sound = sound and (learnt.level is None or learnt.level > 0 < learnt.stretch)
        return learnt if sound and (found.format, found.boot) == (_FORMAT, self._boot) else None

    def _write(self, handle: int, learnt: Learnt) -> bool:
        content = self._encode(_File(_FORMAT, self._boot, learnt))
        try:
            whole = os.pwrite(handle, content, 0) == len(content)
            os.ftruncate(handle, len(content))
        except OSError:  # a full disk stops a run where it would lose something, and not here
            return False
        return whole


def allowance_of(state_dir: Path, service: str, name: str) -> SharedAllowance:
    """
    What is known of a key, by its digest.

    Args:
        state_dir: The state folder.
        service: The service's host.
        name: The client key, or the user name.
    """
    folder = state_dir / "allowance"
    with suppress(OSError):
        make_folder(folder)
    return SharedAllowance(folder / f"{read_digests(state_dir).of_text('client', f'{service}/{name}'):016x}")


def _boot() -> str:
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""
