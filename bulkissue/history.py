"""
The state folder: for each target its lock, its register of runs, and what they issued.

It is the memory of the promise that nobody is issued twice, and belongs on one machine's local disk.
Nothing here may forget a run that may have sent something: a registered run whose journal is gone
stops its target until a person says what became of it.

    state/
      state.json, lock                 the folder's format, and the lock it is made under
      ENVIRONMENT/EFFECT/promotion=ID/[occasion=TEXT/]
        lock                           held by the kernel, from before history is read until it is written
        runs/RUN.json                  the register
        history/RUN.parquet            who was, or may have been, issued by that run
        words/RUN-N.json               what a person said of a run whose folder is lost

A target with two names (a promotion's id and its identifier) has a folder for each, and both hold
all of its runs.
"""

import glob
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from bulkissue.errors import StateRefused, TargetLocked
from bulkissue.files import KernelLock, make_folder, replacing_path, write_whole
from bulkissue.target import Target, parse

FORMAT = 1
_MARK = "state.json"

#: A history file's columns: who, how it ended, where it stood, what proves it, when (ISO 8601, UTC).
HISTORY_SCHEMA = pl.Schema(
    {
        "identifier_type": pl.String(),
        "compare_key": pl.String(),
        "outcome": pl.String(),
        "run": pl.String(),
        "source_file": pl.String(),
        "source_row": pl.UInt64(),
        "customer_id": pl.String(),
        "reference": pl.String(),
        "answered_at": pl.String(),
    }
)


class Registered(msgspec.Struct, frozen=True):
    """
    One run in the register.

    Attributes:
        run_id: The run.
        run_dir: Where its folder is, absolute.
        target: As in `_bi_target`.
        started_at: ISO 8601, UTC.
        journal: Whether its journal was made. Until then it can have sent nothing.
        state: `open` while it may send, `recovered` after a crash once its journal was read into history,
            `settled` once it has ended and its history is written, `lost` once a person's word stands for its journal.
    """

    run_id: str
    run_dir: str
    target: str
    started_at: str
    journal: bool = False
    state: str = "open"


@dataclass(frozen=True, slots=True)
class TargetState:
    """One target's part of the state folder, with its locks held."""

    folders: tuple[Path, ...]

    def runs(self) -> list[Registered]:
        """Every registered run of this target, oldest first."""
        return _registered(self.folders)

    def run(self, run_id: str) -> Registered | None:
        """One registered run."""
        return next((run for run in self.runs() if run.run_id == run_id), None)

    def register(self, run: Registered) -> None:
        """Enter a run, or replace its entry; durable when this returns."""
        for folder in self.folders:
            write_whole(folder / "runs" / f"{run.run_id}.json", msgspec.json.encode(run))

    def issued(self, *, without: str = "") -> pl.LazyFrame:
        """
        Who was, or may have been, issued this target: columns of `HISTORY_SCHEMA`, in no order.

        Args:
            without: A run to leave out: the one that asks.
        """
        found: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted((folder / "history").glob("*.parquet")):
                if path.stem != without:
                    found.setdefault(path.stem, path)
        if not found:
            return pl.LazyFrame(schema=HISTORY_SCHEMA)
        return pl.scan_parquet([found[run] for run in sorted(found)])

    def write_history(self, run_id: str, parts: Sequence[Path]) -> None:
        """Replace what is remembered of a run by the parts' rows (Parquet files of `HISTORY_SCHEMA`)."""
        for folder in self.folders:
            with replacing_path(folder / "history" / f"{run_id}.parquet") as path:
                rows = pl.scan_parquet(list(parts)) if parts else pl.LazyFrame(schema=HISTORY_SCHEMA)
                rows.sink_parquet(path, compression="zstd")

    def keep_word(self, run_id: str, said: dict[str, object]) -> None:
        """Put what a person said of a lost run beside what was said of it before; durable when this returns."""
        for folder in self.folders:
            words = folder / "words"
            make_folder(words)
            number = 1 + sum(1 for _ in words.glob(f"{run_id}-*.json"))
            write_whole(words / f"{run_id}-{number}.json", msgspec.json.encode(said))


def registered_run(state_dir: Path, run_id: str) -> Registered | None:
    """The register entry of a run of whatever target; takes no lock."""
    for path in sorted(state_dir.glob(f"**/runs/{glob.escape(run_id)}.json")):
        return next((run for run in _registered([path.parent.parent]) if run.run_id == run_id), None)
    return None


def _registered(folders: Sequence[Path]) -> list[Registered]:
    found: dict[str, Registered] = {}
    for folder in folders:
        for path in sorted((folder / "runs").glob("*.json")):
            try:
                found[path.stem] = msgspec.json.decode(path.read_bytes(), type=Registered)
            except msgspec.DecodeError as trouble:
                raise StateRefused(
                    f"the register entry {path} cannot be read", hint="restore it from a backup of the state folder"
                ) from trouble
    return [found[run] for run in sorted(found)]


def open_state(state_dir: Path, runs_dir: Path, *, init: bool) -> None:
    """
    Make sure the state folder is there and is ours.

    Args:
        state_dir: The state folder.
        runs_dir: Where runs are kept; a missing state folder beside existing runs is refused.
        init: The user's word that the state folder may be made anew.

    Raises:
        StateRefused: It is missing although runs exist, or is of a newer format.
        TargetLocked: Another run is making it, and does not come to an end.
    """
    mark = state_dir / _MARK
    if mark.exists():
        try:
            found = msgspec.json.decode(mark.read_bytes(), type=dict[str, int])["format"]
        except (msgspec.DecodeError, KeyError) as trouble:
            raise StateRefused(f"{mark} cannot be read", hint="restore the state folder from a backup") from trouble
        if found > FORMAT:
            raise StateRefused(f"{state_dir} has format {found}, this bulkissue knows up to {FORMAT}")
        return
    if not init and (run := _run_that_used(state_dir, runs_dir)):
        raise StateRefused(
            f"the state folder {state_dir} is missing, and run {run} used it",
            hint="restore it; or say --init-state to begin without it, and customers may be issued twice",
        )
    make_folder(state_dir)
    # Two first runs, of whatever targets, may meet here and write the same mark.
    lock = KernelLock(state_dir / "lock")
    if lock.take(""):
        try:
            write_whole(mark, msgspec.json.encode({"format": FORMAT}))
        finally:
            lock.give_back()
    elif not mark.exists():
        raise TargetLocked(f"another run is making the state folder {state_dir} just now", hint="start again")


def _run_that_used(state_dir: Path, runs_dir: Path) -> str:
    """A run below `runs_dir` that kept its state in `state_dir`, or may have; empty if there is none."""
    for manifest in sorted(runs_dir.glob("*/run.json")):
        try:
            used = msgspec.json.decode(manifest.read_bytes(), type=dict[str, object]).get("state_dir")
        except (OSError, msgspec.DecodeError):
            used = str(state_dir)
        if used == str(state_dir):
            return manifest.parent.name
    return ""


@contextmanager
def locked(state_dir: Path, target: Target, run_id: str) -> Iterator[TargetState]:
    """
    The target's part of the state folder, its kernel locks held until the block ends.

    Every name the target is known by is locked, also those that only earlier runs knew.

    Raises:
        TargetLocked: Another process holds one of them.
    """
    holder = msgspec.json.encode(
        {"run": run_id, "pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
    ).decode()
    with ExitStack() as held:
        folders: dict[str, Path] = {}
        wanted = target.names()
        while wanted:
            for name in wanted:
                folder = state_dir / name
                for part in (folder, folder / "runs", folder / "history"):
                    make_folder(part)
                lock = KernelLock(folder / "lock")
                # Never waits, so that two runs taking the same two locks cannot wait for each other.
                if not lock.take(holder):
                    raise TargetLocked(
                        _locked_message(target, lock.holder()), hint="wait for it to end, then start again"
                    )
                held.callback(lock.give_back)
                folders[name] = folder
            known = {name for run in _registered(list(folders.values())) for name in parse(run.target).names()}
            wanted = sorted(known - folders.keys())
        yield TargetState(tuple(folders.values()))


def is_sending(state_dir: Path, target: Target, run_id: str) -> bool:
    """Whether this very run holds its target's lock now."""
    lock = KernelLock(state_dir / target.names()[0] / "lock")
    return lock.is_held() and f'"{run_id}"' in lock.holder()


def issued_without_lock(state_dir: Path, target: Target) -> pl.LazyFrame:
    """As `TargetState.issued`, for questions and dry runs: takes no lock and makes no folder."""
    return _unlocked(state_dir, target).issued()


def every_occasion(state_dir: Path, targets: Iterable[Target]) -> TargetState:
    """
    What is remembered of a promotion or series in all occasions; takes no lock and makes no folder.

    Args:
        state_dir: The state folder.
        targets: The promotion or series, by all names that are known; whatever the occasion.
    """
    folders: dict[str, list[Path]] = {}
    wanted = _without_occasion(targets)
    while wanted:
        for name in sorted(wanted):
            place = state_dir / name
            folders[name] = [place, *sorted(place.glob("occasion=*"))]
        runs = _registered([folder for several in folders.values() for folder in several])
        wanted = _without_occasion(parse(run.target) for run in runs) - folders.keys()
    return TargetState(tuple(folder for several in folders.values() for folder in several))


def _without_occasion(targets: Iterable[Target]) -> set[str]:
    return {name for target in targets for name in replace(target, occasion="").names()}


def _unlocked(state_dir: Path, target: Target) -> TargetState:
    folders: dict[str, Path] = {}
    wanted = target.names()
    while wanted:
        folders |= {name: state_dir / name for name in wanted}
        known = {name for run in _registered(list(folders.values())) for name in parse(run.target).names()}
        wanted = sorted(known - folders.keys())
    return TargetState(tuple(folders.values()))


def _locked_message(target: Target, holder: str) -> str:
    try:
        who = msgspec.json.decode(holder, type=dict[str, object])
    except msgspec.DecodeError:
        return f"another run holds the lock of {target.describe()}"
    return (
        f"run {who.get('run')} holds the lock of {target.describe()}: "
        f"process {who.get('pid')} on {who.get('host')}, since {who.get('since')}"
    )
