"""
The memory in a folder: SQLite and files on one machine's local disk. The one implementation of `protocols.Store`.

It must never be led to a folder that several machines share: its locks are one kernel's.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bulkissue.job.target import Target
from bulkissue.state import folder, register
from bulkissue.state.allowance import Allowance, allowance_of
from bulkissue.state.folder import Mark
from bulkissue.state.history import History
from bulkissue.state.journal import Journal
from bulkissue.state.protocols import RunJournal, Store, TargetMemory
from bulkissue.state.registered import Registered

_JOURNAL = "journal.db"


def store_at(state_dir: Path) -> Store:
    """The memory in a state folder."""
    return FolderStore(state_dir)


def look_at_journal(run_dir: Path, *, run_id: str, plan_sha256: str | None = None) -> RunJournal:
    """
    A run's journal for reading only, also while another process writes it; it lies in the run's folder.

    Raises:
        StateRefused: It is missing, torn, of another run or plan, or lacks its last entries.
    """
    return Journal.look(run_dir / _JOURNAL, run_id=run_id, plan_sha256=plan_sha256)


@dataclass(frozen=True, slots=True)
class FolderStore:
    """As `Store` says."""

    state_dir: Path

    def open(self, runs_dir: Path, *, init: bool) -> None:
        folder.open_state(self.state_dir, runs_dir, init=init)

    def require(self) -> None:
        folder.require_state(self.state_dir)

    def mark(self) -> Mark | None:
        return folder.read_mark(self.state_dir)

    def begun(self) -> int:
        return folder.begun(self.state_dir)

    @contextmanager
    def beginning(self) -> Iterator[int]:
        with folder.beginning(self.state_dir) as number:
            yield number

    def count_up_to(self, number: int) -> None:
        folder.count_up_to(self.state_dir, number)

    def back_up(self, out: Path) -> int:
        return folder.back_up(self.state_dir, out)

    @contextmanager
    def locked(self, target: Target, run_id: str) -> Iterator[TargetMemory]:
        with register.locked(self.state_dir, target, run_id) as memory:
            yield memory

    def look_at(self, target: Target) -> TargetMemory:
        return register.without_lock(self.state_dir, target)

    def issued(self, target: Target) -> History:
        return register.issued_without_lock(self.state_dir, target)

    def elsewhere(self, target: Target) -> dict[str, History]:
        return register.elsewhere(self.state_dir, target)

    def every_occasion(self, targets: Iterable[Target]) -> TargetMemory:
        return register.every_occasion(self.state_dir, targets)

    def runs(self) -> list[Registered]:
        return register.every_run(self.state_dir)

    def run(self, run_id: str) -> Registered | None:
        return register.registered_run(self.state_dir, run_id)

    def latest_run(self) -> Registered | None:
        return register.latest_run(self.state_dir)

    def known_runs(self) -> set[str]:
        return register.known_runs(self.state_dir)

    def is_sending(self, target: Target, run_id: str) -> bool:
        return register.is_sending(self.state_dir, target, run_id)

    def erase_words(self, texts: Collection[str]) -> int:
        return register.erase_words(self.state_dir, texts)

    def allowance(self, service: str, name: str) -> Allowance:
        return allowance_of(self.state_dir, service, name)

    def create_journal(self, run_dir: Path, *, run_id: str, plan_sha256: str) -> RunJournal:
        return Journal.create(run_dir / _JOURNAL, run_id=run_id, plan_sha256=plan_sha256)

    def reopen_journal(self, run_dir: Path, *, run_id: str, plan_sha256: str) -> RunJournal:
        return Journal.reopen(run_dir / _JOURNAL, run_id=run_id, plan_sha256=plan_sha256)
