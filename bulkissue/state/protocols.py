"""
What the rest of the program needs of the memory: small protocols, which a folder with SQLite fulfils.

Another implementation, as over a database that several machines share, has to keep the same promises; the contract
tests (`tests/contract/test_store_contract.py`) hold any to them. Nobody outside of this package may know which it is.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import polars as pl

from bulkissue.job.target import Target
from bulkissue.state.allowance import Allowance
from bulkissue.state.entries import Attempt, Ended, Entry, Event, Held, RawAttempt, Settlement
from bulkissue.state.folder import Mark
from bulkissue.state.history import Digests, History
from bulkissue.state.registered import Registered


class RunJournal(Protocol):
    """
    What one run sent and what came of it; the only truth about it. Nothing in it is ever changed or deleted.

    Attributes:
        path: What it is called in messages.
        next_attempt: The number of the next attempt.
    """

    path: Path
    next_attempt: int

    def write(self, entries: Iterable[Entry]) -> None:
        """
        Put entries down, all or none; durable when this returns: no byte of an attempt may leave before that.

        Raises:
            StateRefused: They could not be written. Nothing may be sent after that.
        """

    def standing_still(self) -> AbstractContextManager[None]:
        """All that is read inside the block is of one moment, also where another process writes meanwhile."""

    def meta(self) -> dict[str, str]:
        """What the journal was made for, and how often it was written."""

    def attempts(self, batches: tuple[int, int] | None = None) -> Iterator[Attempt]:
        """Attempts with their answers, in the order sent; `batches` bounds the batch numbers, both included."""

    def raw_attempts(self, batches: tuple[int, int]) -> Iterator[RawAttempt]:
        """As `attempts`, in no order, with rows and results as they stand in the journal."""

    def timings(self) -> Iterator[tuple[int, int, int, int | None, str | None, int]]:
        """Every attempt without its rows and results, in the order sent."""

    def rows_sent(self) -> int:
        """How many rows all attempts have together."""

    def last_answer(self) -> int:
        """When the last answer came, in epoch milliseconds; 0 where none did."""

    def outcomes(self) -> Iterator[tuple[int, int, int | None, str | None, Ended | None]]:
        """Every attempt with its rows' outcomes and reasons, in no order, for what only counts."""

    def marks(self, rows: int) -> bytearray:
        """For each row whether it was sent: `NEVER_SENT`, `ONLY_VOID` or `SENT`."""

    def body(self, attempt: int) -> bytes | None:
        """The raw answer of an attempt, where it was kept."""

    def settlements(self) -> list[Settlement]:
        """What was found out about unknown rows afterwards, in order; the last one of a row counts."""

    def held(self) -> list[Held]:
        """Rows that left their batch at a resume."""

    def events(self) -> list[Event]:
        """The run's own story, in order."""

    def requests_and_attempts(self) -> tuple[int, int]:
        """Batches sent at least once, and sendings."""

    def close(self) -> None:
        """The run has come to its end; what is kept is whole."""

    def leave(self) -> None:
        """Let go, without a word about the end."""


class TargetMemory(Protocol):
    """What is remembered of one target: its runs, and whom they issued."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the target is called: by the promotion's id, by its identifier."""

    @property
    def digests(self) -> Digests:
        """In which its history is written."""

    def runs(self) -> list[Registered]:
        """Every registered run of this target, oldest first."""

    def run(self, run_id: str) -> Registered | None:
        """One registered run."""

    def register(self, run: Registered) -> None:
        """Enter a run, or replace its entry; durable when this returns."""

    def issued(self, *, without: str = "", only: str = "") -> History:
        """Who was, or may have been, issued; without a run, or by one alone."""

    def remembers(self, run: Registered) -> bool:
        """Whether what a run issued is written, as it last was."""

    def write_history(self, run_id: str, lines: pl.LazyFrame) -> str:
        """Replace what is remembered of a run; the fingerprint of it, for the register."""

    def digest_old_history(self) -> None:
        """Let no history of an early version keep its identifiers; harmless to say again."""

    def keep_word(self, run_id: str, said: dict[str, object], named: pl.DataFrame) -> None:
        """Put what a person said of a lost run beside what was said before; durable when this returns."""

    def named_by_words(self, run_id: str) -> pl.DataFrame:
        """The customers that a person named of a lost run."""

    def words(self, run_id: str) -> list[tuple[dict[str, object], pl.DataFrame]]:
        """Each word that was kept of a lost run, oldest first."""


class Store(Protocol):
    """The memory of all targets, and what processes share."""

    def open(self, runs_dir: Path, *, init: bool) -> None:
        """
        Make sure that it is there and is ours.

        Raises:
            StateRefused: It is missing although runs exist, or is of a newer format.
        """

    def require(self) -> None:
        """
        Make sure that it is there, for what goes on with a run; never makes one.

        Raises:
            StateRefused: It is missing, or is of a newer format.
        """

    def mark(self) -> Mark | None:
        """Its identity, and when it was made; None where there is none."""

    def begun(self) -> int:
        """How many runs were begun under it."""

    def beginning(self) -> AbstractContextManager[int]:
        """A new run's number; in the block the run is entered in its register."""

    def count_up_to(self, number: int) -> None:
        """Let the next run's number be greater than `number`."""

    def back_up(self, out: Path) -> int:
        """Make a copy that is consistent in itself, whoever is sending; how many parts it has."""

    def locked(self, target: Target, run_id: str) -> AbstractContextManager[TargetMemory]:
        """
        A target's memory, nobody else's until the block ends.

        Raises:
            TargetLocked: Another process holds it.
        """

    def look_at(self, target: Target) -> TargetMemory:
        """A target's memory, for questions: takes no lock and makes nothing."""

    def issued(self, target: Target) -> History:
        """Who was, or may have been, issued a target, for questions; nobody where there is no memory."""

    def elsewhere(self, target: Target) -> dict[str, History]:
        """Who was, or may have been, issued the same under other environments, by environment."""

    def every_occasion(self, targets: Iterable[Target]) -> TargetMemory:
        """The memory of these targets whatever their occasion, for questions."""

    def runs(self) -> list[Registered]:
        """Every registered run, whatever its target."""

    def run(self, run_id: str) -> Registered | None:
        """One registered run."""

    def latest_run(self) -> Registered | None:
        """The registered run with the greatest number."""

    def known_runs(self) -> set[str]:
        """The ids of all registered runs."""

    def is_sending(self, target: Target, run_id: str) -> bool:
        """Whether this very run holds its target now."""

    def erase_words(self, texts: Collection[str]) -> int:
        """Take customers out of what persons said of lost runs; how many lines they were in."""

    def allowance(self, service: str, name: str) -> Allowance:
        """What is known of a key's allowance, shared by all who send under it."""

    def create_journal(self, run_dir: Path, *, run_id: str, plan_sha256: str) -> RunJournal:
        """
        The journal of a new run, open for writing.

        Raises:
            StateRefused: There is one already, or it cannot be written.
        """

    def reopen_journal(self, run_dir: Path, *, run_id: str, plan_sha256: str) -> RunJournal:
        """
        A run's journal, open for writing.

        Raises:
            StateRefused: It is missing, torn, of another run or plan, or lacks its last entries.
        """
