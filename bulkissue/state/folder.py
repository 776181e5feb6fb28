"""
The state folder itself: its mark, its identity, how many runs were begun under it, and a copy of it as a backup.

It must never be made anew, or taken for whole, beside runs that it may have forgotten.

    state.json   its format, its identity, and when it was made
    key          under which history is digested
    begun        how many runs were begun under it; each run folder holds its own number
    lock         held while either is written, or a backup is made
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bulkissue.errors import StateRefused, TargetLocked, UsageRefused
from bulkissue.files import KernelLock, make_folder, sync_folder, write_whole
from bulkissue.state import erasure
from bulkissue.state.history import make_key

FORMAT = 1
MARK = "state.json"
_BEGUN = "begun"
_LOCK = "lock"
_PATIENCE_SECONDS = 30.0


class Mark(msgspec.Struct, frozen=True):
    """
    What `state.json` says.

    Attributes:
        format: Of the folder.
        identity: Random; a copy has the same, a folder made anew another. Empty in folders of an early version.
        began_ms: When it was made, in epoch milliseconds.
    """

    format: int
    identity: str = ""
    began_ms: int = 0

    @property
    def began_at(self) -> str:
        """When it was made, ISO 8601 in UTC."""
        moment = datetime.fromtimestamp(self.began_ms / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def open_state(state_dir: Path, runs_dir: Path, *, init: bool) -> None:
    """
    Make sure the state folder is there and is ours.

    Args:
        state_dir: The state folder.
        runs_dir: Where runs are kept; a missing state folder is refused where one of them may have sent something,
            whatever state folder it used: this one may have been moved.
        init: The user's word that the state folder may be made anew.

    Raises:
        StateRefused: It is missing although runs exist, or is of a newer format.
        TargetLocked: Another run is making it, and does not come to an end.
    """
    mark = read_mark(state_dir)
    if mark is not None and mark.identity:
        return
    if mark is not None:
        _take_over(state_dir, mark)
        return
    # Read anew: whoever made the folder meanwhile may have begun a run since.
    if not init and (found := _run_that_may_have_sent(runs_dir)) and read_mark(state_dir) is None:
        run, used = found
        raise StateRefused(
            f"the state folder {state_dir} is missing, and run {run} in {runs_dir} may have issued"
            + (f"; its memory is in {used}" if used and used != str(state_dir) else ""),
            hint="put the state folder back, or lead to it by state_dir; or say --init-state to begin without it: "
            "right for a job that shares its runs_dir with others and has a state_dir of its own, "
            "else customers may be issued twice",
        )
    make_folder(state_dir)
    # Two first runs, of whatever targets, may meet here.
    with _locked(state_dir):
        if read_mark(state_dir) is None:
            make_key(state_dir)
            mark = Mark(FORMAT, secrets.token_hex(16), time.time_ns() // 1_000_000)
            write_whole(state_dir / MARK, msgspec.json.encode(mark))


def _take_over(state_dir: Path, mark: Mark) -> None:
    """Give a folder of an early version its key and its identity; before that it has no digests and counts no runs."""
    with _locked(state_dir):
        make_key(state_dir)
        write_whole(
            state_dir / MARK, msgspec.json.encode(msgspec.structs.replace(mark, identity=secrets.token_hex(16)))
        )


def require_state(state_dir: Path) -> None:
    """
    Make sure that the state folder is there, for what goes on with a run that used it; never makes one.

    Raises:
        StateRefused: It is missing, or is of a newer format.
    """
    mark = read_mark(state_dir)
    if mark is None:
        raise StateRefused(
            f"the state folder {state_dir} is missing, and this run used it",
            hint="put it back where it was, or restore it from a backup; one goes on with a run only with its memory",
        )
    if not mark.identity:
        _take_over(state_dir, mark)


def read_mark(state_dir: Path) -> Mark | None:
    """
    The mark of a state folder; None where there is no state folder.

    Raises:
        StateRefused: It cannot be read, or is of a newer format.
    """
    path = state_dir / MARK
    if not path.exists():
        return None
    try:
        mark = msgspec.json.decode(path.read_bytes(), type=Mark)
    except msgspec.DecodeError as trouble:
        raise StateRefused(f"{path} cannot be read", hint="restore the state folder from a backup") from trouble
    if mark.format > FORMAT:
        raise StateRefused(f"{state_dir} has format {mark.format}, this bulkissue knows up to {FORMAT}")
    return mark


def begun(state_dir: Path) -> int:
    """
    How many runs were begun under the state folder.

    Raises:
        StateRefused: Its count cannot be read.
    """
    path = state_dir / _BEGUN
    try:
        return int(path.read_bytes())
    except FileNotFoundError:
        return 0
    except ValueError as trouble:
        raise StateRefused(f"{path} cannot be read", hint="restore the state folder from a backup") from trouble


@contextmanager
def beginning(state_dir: Path) -> Iterator[int]:
    """
    A new run's number; in the block the run is entered in its register, so that no backup comes between the two.

    Raises:
        TargetLocked: Another process holds the state folder, and does not come to an end.
    """
    with _locked(state_dir):
        number = begun(state_dir) + 1
        write_whole(state_dir / _BEGUN, str(number).encode())
        yield number


def count_up_to(state_dir: Path, number: int) -> None:
    """Let the next run's number be greater than `number`."""
    with _locked(state_dir):
        write_whole(state_dir / _BEGUN, str(max(number, begun(state_dir))).encode())


def back_up(state_dir: Path, out: Path) -> int:
    """
    A copy of the state folder that is consistent in itself, whoever is sending meanwhile.

    Each run's register entry is copied before its history: where a run ends in between, the copy says that the run is
    open, and its journal is read when the copy comes to be used.

    Args:
        state_dir: The state folder.
        out: A folder that is not there yet, or is empty.

    Returns:
        How many files were copied.

    Raises:
        UsageRefused: `out` holds something.
        StateRefused: There is no state folder.
    """
    require_state(state_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageRefused(f"{out} is there already", hint="name a folder that does not exist yet")
    partial = out.with_name(f".{out.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    make_folder(partial)
    with _locked(state_dir):
        # Register entries are small. No run is entered meanwhile.
        copied = _copy(state_dir, partial, [path for path in _kept(state_dir) if path.suffix != ".parquet"])
    copied += _copy(state_dir, partial, [path for path in _kept(state_dir) if path.suffix == ".parquet"])
    if out.exists():
        out.rmdir()
    partial.rename(out)
    sync_folder(out.parent)
    return copied


def _kept(state_dir: Path) -> list[Path]:
    passing = {_LOCK, erasure.PLAN, erasure.LOCK}
    return sorted(
        path
        for path in state_dir.rglob("*")
        if path.is_file() and path.name not in passing and not path.name.endswith(".partial")
    )


def _copy(source: Path, out: Path, paths: list[Path]) -> int:
    for path in paths:
        copy = out / path.relative_to(source)
        make_folder(copy.parent)
        with path.open("rb") as reading:
            handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as writing:
                shutil.copyfileobj(reading, writing, 1 << 20)
                writing.flush()
                os.fsync(writing.fileno())
        sync_folder(copy.parent)
    return len(paths)


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    lock = KernelLock(state_dir / _LOCK)
    until = time.monotonic() + _PATIENCE_SECONDS
    while not lock.take(""):
        if time.monotonic() > until:
            raise TargetLocked(f"another process holds the state folder {state_dir}", hint="start again")
    try:
        yield
    finally:
        lock.give_back()


def _run_that_may_have_sent(runs_dir: Path) -> tuple[str, str] | None:
    """A run below `runs_dir` that may have sent something, rehearsals aside, and its state folder if that is known."""
    for folder in sorted({path.parent for name in ("run.json", "journal.db") for path in runs_dir.glob(f"*/{name}")}):
        try:
            manifest = msgspec.json.decode((folder / "run.json").read_bytes(), type=dict[str, object])
        except (OSError, msgspec.DecodeError):
            return folder.name, ""
        unsent = manifest.get("state") == "planned" and not (folder / "journal.db").exists()
        if manifest.get("rehearsal") is not True and not unsent:
            return folder.name, str(manifest.get("state_dir", ""))
    return None
