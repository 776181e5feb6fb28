"""
The register: for each target its lock, its runs, and what they issued.

It is the memory of the promise that nobody is issued twice, and belongs on one machine's local disk.
Nothing here may forget a run that may have sent something: a registered run whose journal is gone
stops its target until a person says what became of it.

    state/
      state.json, begun, lock          see `state/folder`
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
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import msgspec
import polars as pl

from bulkissue.errors import StateRefused, TargetLocked
from bulkissue.failpoint import PLACE_OF_DIGESTING, reached
from bulkissue.files import KernelLock, fingerprint, make_folder, replacing_path, write_whole
from bulkissue.job.target import Target, parse
from bulkissue.outcomes import KNOWN_BY
from bulkissue.state import history
from bulkissue.state.folder import read_mark
from bulkissue.state.history import Digests, History
from bulkissue.state.registered import Registered


@dataclass(frozen=True, slots=True)
class TargetState:
    """One target's part of the state folder, with its locks held; and the digests its history is written in."""

    names: tuple[str, ...]
    folders: tuple[Path, ...]
    digests: Digests

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

    def issued(self, *, without: str = "", only: str = "") -> History:
        """
        Who was, or may have been, issued this target.

        Args:
            without: A run to leave out: the one that asks.
            only: A run to be asked alone.
        """
        files = self.history_files().items()
        return history.read([path for run, path in files if run != without and only in {"", run}], self.digests)

    def history_files(self) -> dict[str, Path]:
        """The file of each run's history, by run."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted((folder / "history").glob("*.parquet")):
                found.setdefault(path.stem, path)
        return found

    def remembers(self, run: Registered) -> bool:
        """Whether what a run issued is written, as it last was, in every folder that has the run in its register."""
        files = [
            folder / "history" / f"{run.run_id}.parquet"
            for folder in self.folders
            if (folder / "runs" / f"{run.run_id}.json").exists()
        ]
        return all(file.exists() and run.history_file in {"", fingerprint(file)} for file in files)

    def write_history(self, run_id: str, lines: pl.LazyFrame) -> str:
        """
        Replace what is remembered of a run by these lines of history.

        Returns:
            The file's fingerprint, for the register.
        """
        written: Path | None = None
        for folder in self.folders:
            path = folder / "history" / f"{run_id}.parquet"
            if written is None:
                history.write(path, lines)
                written = path
                continue
            with replacing_path(path) as partial:
                shutil.copyfile(written, partial)
        return fingerprint(written) if written else ""

    def digest_old_history(self) -> None:
        """Let no history file of an early version keep its identifiers; harmless to say again."""
        for folder in self.folders:
            for path in sorted((folder / "history").glob("*.parquet")):
                if history.digest_old(path, self.digests):
                    reached(PLACE_OF_DIGESTING)

    def keep_word(self, run_id: str, said: dict[str, object], named: pl.DataFrame) -> None:
        """
        Put what a person said of a lost run beside what was said of it before; durable when this returns.

        Args:
            run_id: The run.
            said: By whom, with which evidence.
            named: The customers of that word, `history.RUN_SCHEMA`. With the run's folder gone these are the only
                identifiers by which the service can be asked who they are.
        """
        for folder in self.folders:
            words = folder / "words"
            make_folder(words)
            number = 1 + sum(1 for _ in words.glob(f"{run_id}-*.json"))
            with replacing_path(words / f"{run_id}-{number}.parquet") as path:
                named.write_parquet(path)
            write_whole(words / f"{run_id}-{number}.json", msgspec.json.encode(said))

    def named_by_words(self, run_id: str) -> pl.DataFrame:
        """The customers that a person named of a lost run, `history.RUN_SCHEMA`."""
        files = [path for folder in self.folders for path in sorted((folder / "words").glob(f"{run_id}-*.parquet"))]
        return pl.concat([pl.DataFrame(schema=history.RUN_SCHEMA), *map(pl.read_parquet, files)])

    def words(self, run_id: str) -> list[tuple[dict[str, object], pl.DataFrame]]:
        """Each word that was kept of a lost run, oldest first: what was said, and the customers it named."""
        kept = {path.name: path for folder in self.folders for path in (folder / "words").glob(f"{run_id}-*.json")}
        said = [
            (msgspec.json.decode(path.read_bytes(), type=dict[str, object]), path.with_suffix(".parquet"))
            for path in kept.values()
        ]
        return [(word, pl.read_parquet(path)) for word, path in sorted(said, key=lambda one: str(one[0]["at"]))]


def erase_words(state_dir: Path, texts: Collection[str]) -> int:
    """
    Take customers out of what persons said of lost runs; their digests stay in history.

    Args:
        state_dir: The state folder.
        texts: What they are known by.

    Returns:
        How many lines they were in.
    """
    erased = 0
    names = ["compare_key", "customer_id", *KNOWN_BY.values()]
    for path in sorted(state_dir.glob("*/*/**/words/*.parquet")):
        lines = pl.read_parquet(path)
        mine = pl.any_horizontal(pl.col(name).is_in(list(texts)).fill_null(value=False) for name in names)
        if count := lines.filter(mine).height:
            kept = lines.with_columns(pl.when(~mine).then(pl.col(name)).alias(name) for name in names)
            with replacing_path(path) as partial:
                kept.write_parquet(partial)
            erased += count
    return erased


def known_runs(state_dir: Path) -> set[str]:
    """The ids of all registered runs of whatever target; takes no lock."""
    return {path.stem for path in state_dir.rglob("runs/*.json")}


def every_run(state_dir: Path) -> list[Registered]:
    """Every registered run of whatever target; takes no lock."""
    return _registered(sorted({path.parent.parent for path in state_dir.rglob("runs/*.json")}))


def latest_run(state_dir: Path) -> Registered | None:
    """The registered run with the greatest id; takes no lock."""
    latest = max(known_runs(state_dir), default=None)
    return registered_run(state_dir, latest) if latest else None


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
        # Asked again once the locks are held: another run may have brought in a name meanwhile.
        while wanted := [name for name in _names(state_dir, target) if name not in folders]:
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
        yield TargetState(tuple(folders), tuple(folders.values()), history.read_digests(state_dir))


def is_sending(state_dir: Path, target: Target, run_id: str) -> bool:
    """Whether this very run holds its target's lock now."""
    lock = KernelLock(state_dir / target.names()[0] / "lock")
    return lock.is_held() and f'"{run_id}"' in lock.holder()


def without_lock(state_dir: Path, target: Target) -> TargetState:
    """The target's part of the state folder, for questions: takes no lock and makes no folder."""
    names = tuple(_names(state_dir, target))
    return TargetState(names, tuple(state_dir / name for name in names), history.read_digests(state_dir))


def issued_without_lock(state_dir: Path, target: Target) -> History:
    """As `TargetState.issued`, for questions and dry runs: takes no lock and makes no folder."""
    return without_lock(state_dir, target).issued() if read_mark(state_dir) else history.nobody()


def elsewhere(state_dir: Path, target: Target) -> dict[str, History]:
    """
    Who was, or may have been, issued the same promotion or series under other environments; takes no lock.

    Returns:
        By environment, as `TargetState.issued`; those where nothing is remembered are left out.
    """
    places = [path for path in sorted(state_dir.glob("*")) if (path / target.effect).is_dir()]
    others = [replace(target, environment=unquote(path.name)) for path in places]
    return {
        other.environment: state.issued()
        for other in others
        if other.environment != target.environment and (state := without_lock(state_dir, other)).history_files()
    }


def every_occasion(state_dir: Path, targets: Iterable[Target]) -> TargetState:
    """
    What is remembered of a promotion or series in all occasions; takes no lock and makes no folder.

    Args:
        state_dir: The state folder.
        targets: The promotion or series, by all names that are known; whatever the occasion.
    """
    names = _closure(state_dir, targets)
    folders = tuple(folder for several in names.values() for folder in several)
    return TargetState(tuple(names), folders, history.read_digests(state_dir))


def _closure(state_dir: Path, targets: Iterable[Target]) -> dict[str, list[Path]]:
    """Every name of a promotion or series that any run knew, without the occasion, and its folders in all occasions."""
    folders: dict[str, list[Path]] = {}
    wanted = _without_occasion(targets)
    while wanted:
        for name in sorted(wanted):
            place = state_dir / name
            folders[name] = [place, *sorted(place.glob("occasion=*"))]
        runs = _registered([folder for several in folders.values() for folder in several])
        wanted = _without_occasion(parse(run.target) for run in runs) - folders.keys()
    return folders


def _names(state_dir: Path, target: Target) -> list[str]:
    """Every name the target goes by in its occasion, its own first; runs of any occasion tell which are one."""
    known = {
        name
        for without in _closure(state_dir, [target])
        for name in replace(parse(without), occasion=target.occasion).names()
    }
    return [*target.names(), *sorted(known - set(target.names()))]


def _without_occasion(targets: Iterable[Target]) -> set[str]:
    return {name for target in targets for name in replace(target, occasion="").names()}


def _locked_message(target: Target, holder: str) -> str:
    try:
        who = msgspec.json.decode(holder, type=dict[str, object])
    except msgspec.DecodeError:
        return f"another run holds the lock of {target.describe()}"
    return (
        f"run {who.get('run')} holds the lock of {target.describe()}: "
        f"process {who.get('pid')} on {who.get('host')}, since {who.get('since')}"
    )
