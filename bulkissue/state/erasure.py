"""
An erasure while it is under way: whom it is about and from which runs, from before its first removal to its receipt.

It outlives a kill, as the runs that are done with cannot say any more by which other identifiers the customer stands in
those that are not. It must never outlive its receipt, nor get into a backup: it is the one file that tells who it was.

    erasing.json   the plan, mode 0600
    erasing.lock   held by who erases
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bulkissue.errors import StateRefused, TargetLocked
from bulkissue.files import KernelLock, sync_folder, write_whole
from bulkissue.state.run_folder import new_run_id

PLAN = "erasing.json"
LOCK = "erasing.lock"

Key = tuple[str, str]


class PlannedRun(msgspec.Struct, frozen=True):
    """A run that has of the customers: the names of its rows that go, and how many cells of others."""

    run_id: str
    folder: str
    rows: list[str]
    cells: int
    rehearsal: bool


class Erasure(msgspec.Struct, frozen=True):
    """
    What is erased.

    Attributes:
        at: When it was begun, ISO 8601 in UTC; its removals bear this.
        receipt: The name of its receipt.
        keys: By kind, what the customers are known by.
        runs: Those that have of them.
    """

    at: str
    receipt: str
    keys: tuple[Key, ...] = ()
    runs: tuple[PlannedRun, ...] = ()


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """
    For a block that erases.

    Raises:
        TargetLocked: Another process does.
    """
    lock = KernelLock(state_dir / LOCK)
    if not lock.take(""):
        raise TargetLocked("another process erases under this state folder", hint="start again when it has ended")
    try:
        yield
    finally:
        lock.give_back()


def read(state_dir: Path) -> Erasure:
    """
    The erasure that was begun and killed; a new one where there is none.

    Raises:
        StateRefused: It cannot be read.
    """
    path = state_dir / PLAN
    try:
        return msgspec.json.decode(path.read_bytes(), type=Erasure)
    except FileNotFoundError:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return Erasure(at=at, receipt=new_run_id())
    except msgspec.DecodeError as trouble:
        raise StateRefused(
            f"{path} cannot be read: it says whom an erasure was about",
            hint="remove it, and say erase again for everybody whose erasure may have been broken off",
        ) from trouble


def write(state_dir: Path, erasure: Erasure) -> None:
    """Write it down, before what it says is done."""
    write_whole(state_dir / PLAN, msgspec.json.encode(erasure))


def end(state_dir: Path) -> None:
    """Forget whom it was about; the receipt is written."""
    (state_dir / PLAN).unlink()
    sync_folder(state_dir)
