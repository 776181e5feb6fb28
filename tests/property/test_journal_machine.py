"""
The journal against a plain list: whatever happens to it, it holds what it acknowledged, in whole commits.

`BULKISSUE_MACHINE_EXAMPLES` sets how many histories are tried (50 where it is not set).
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import each_row
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bulkissue.errors import StateRefused
from bulkissue.outcomes import RESULT_FIELDS, Outcome, Results, RowResult
from bulkissue.state.entries import NEVER_SENT, ONLY_VOID, SENT, Answer, Entry, Event, Held, Intent, Settlement
from bulkissue.state.journal import Journal

RUN = {"run_id": "run", "plan_sha256": "plan"}
ROWS = 40
HEADER, PAGE = 32, 4096
FRAME = 24 + PAGE
LEAST_WAL = HEADER + FRAME
#: What a crash leaves is made up here, so no disk is needed.
MEMORY = Path("/dev/shm")

texts = st.sampled_from(["", "a", "Ünï 谁", "\x00\r\n", '["'])
results = st.builds(RowResult, st.sampled_from(Outcome), texts, texts, texts, texts, texts, texts)
settlements = st.builds(
    Settlement, st.integers(0, ROWS - 1), st.sampled_from(Outcome), texts, texts, texts, texts, texts, st.integers(0, 9)
)
holds = st.builds(Held, st.integers(0, ROWS - 1), texts, texts)
events = st.builds(Event, texts, st.integers(0, 9), st.dictionaries(texts, st.none() | st.integers() | texts))
shares = st.floats(0, 1)

Books = tuple[object, ...]


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@dataclass(frozen=True)
class Files:
    """A journal's two files; the WAL's valid part ends at `end`, the rest is from before its last restart."""

    main: bytes
    wal: bytes

    @classmethod
    def of(cls, path: Path) -> "Files":
        return cls(path.read_bytes(), wal(path).read_bytes())

    @property
    def generation(self) -> bytes:
        return self.wal[16:24]

    @property
    def end(self) -> int:
        end = HEADER
        while self.wal[end + 8 : end + 16] == self.generation:
            end += FRAME
        return end

    def put(self, folder: Path) -> Path:
        folder.mkdir()
        path = folder / "journal.db"
        path.write_bytes(self.main)
        wal(path).write_bytes(self.wal)
        return path


def expected(commits: Sequence[Sequence[Entry]]) -> Books:
    """What a journal of these commits says, the plain way."""
    entries = [entry for commit in commits for entry in commit]
    answers = {entry.attempt: entry for entry in entries if isinstance(entry, Answer)}
    attempts = []
    marks = [NEVER_SENT] * ROWS
    for intent in entries:
        if isinstance(intent, Intent):
            answer = answers.get(intent.attempt)
            void = answer.void if answer else None
            said = None
            if answer and void is None:
                said = [
                    [str(getattr(row, name)) for name in RESULT_FIELDS]
                    for row in each_row(answer.results, len(intent.rows))
                ]
            attempts.append(
                (intent.attempt, intent.batch, intent.rows, intent.at, answer.at if answer else None, void, said)
            )
            for row in intent.rows:
                marks[row] = max(marks[row], SENT if void is None else ONLY_VOID)
    held: dict[int, Held] = {}
    for entry in entries:
        if isinstance(entry, Held):
            held.setdefault(entry.row, entry)
    return (
        attempts,
        marks,
        [entry for entry in entries if isinstance(entry, Settlement)],
        [held[row] for row in sorted(held)],
        [entry for entry in entries if isinstance(entry, Event)],
        max((entry.attempt for entry in entries if isinstance(entry, Intent)), default=0),
    )


def actual(journal: Journal) -> Books:
    attempts = []
    for attempt in journal.attempts():
        said = None
        if attempt.results is not None:
            columns = [getattr(attempt.results, name) for name in RESULT_FIELDS]
            size = len(attempt.rows)
            spread = [column if isinstance(column, list) else [column] * size for column in columns]
            said = [list(row) for row in zip(*spread, strict=True)]
        attempts.append(
            (attempt.attempt, attempt.batch, attempt.rows, attempt.sent_at, attempt.answered_at, attempt.void, said)
        )
    return (
        attempts,
        list(journal.marks(ROWS)),
        journal.settlements(),
        journal.held(),
        journal.events(),
        max((attempt.attempt for attempt in journal.attempts()), default=0),
    )


def look(path: Path) -> Books:
    journal = Journal.look(path, **RUN)
    try:
        return actual(journal)
    finally:
        journal.leave()


class JournalMachine(RuleBasedStateMachine):
    """
    One run over its sessions.

    `commits` is the model. `delivered` is what the service did: no crash takes it back, so that a row it
    has can never again be one that may be sent.
    """

    @initialize()
    def create(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="bulkissue-machine-", dir=MEMORY if MEMORY.is_dir() else None))
        self.folders = 0
        self.path = self.place / "journal.db"
        self.commits: list[list[Entry]] = []
        self.ends: list[tuple[bytes, int]] = []  # of each commit: the WAL's generation, and where it ended in it
        self.checkpointed = 0  # so many commits are in the main file
        self.delivered: Counter[int] = Counter()
        self.open_attempts: dict[int, list[int]] = {}
        self.last_attempt = 0
        self.open(Journal.create)

    def open(self, way_in: Callable[..., Journal]) -> None:
        self.journal = way_in(self.path, **RUN)
        self.checkpointed = len(self.commits)  # opening brings all there is into the main file
        assert self.journal.next_attempt == self.last_attempt + 1
        # After a crash nobody is left who could answer: these stay unknown.
        self.open_attempts = {}

    def new_folder(self) -> Path:
        self.folders += 1
        return self.place / str(self.folders)

    def write(self, entries: list[Entry]) -> None:
        self.journal.write(entries)
        self.acknowledged(entries)

    def acknowledged(self, entries: list[Entry]) -> None:
        files = Files.of(self.path)
        if self.ends and self.ends[-1][0] != files.generation:
            self.checkpointed = len(self.commits)  # SQLite begins its WAL anew only then
        self.commits.append(entries)
        self.ends.append((files.generation, files.end))
        for entry in entries:
            if isinstance(entry, Intent):
                self.last_attempt = entry.attempt
                self.open_attempts[entry.attempt] = list(entry.rows)
                self.delivered.update(entry.rows)  # the bytes leave
            elif isinstance(entry, Answer):
                del self.open_attempts[entry.attempt]

    def draw_intents(self, draw: Callable[..., int], count: int) -> list[Entry]:
        """Attempts of rows that may be sent: the only ones a run ever sends."""
        marks = self.journal.marks(ROWS)
        free = [row for row in range(ROWS) if marks[row] != SENT and row not in self.delivered]
        intents: list[Entry] = []
        for number in range(count):
            rows = [free.pop(draw(0, len(free) - 1)) for _ in range(min(len(free), draw(1, 4)))]
            if rows:
                intents.append(Intent(self.last_attempt + number + 1, draw(1, 9), rows, draw(0, 9)))
        return intents

    @rule(data=st.data(), count=st.integers(1, 3), others=st.lists(settlements | holds | events, max_size=2))
    def send(self, data: st.DataObject, count: int, others: list[Entry]) -> None:
        """Several lanes note their intents in one commit, and send."""
        self.write(self.draw_intents(lambda low, high: data.draw(st.integers(low, high)), count) + others)

    def draw_answers(self, data: st.DataObject) -> list[Entry]:
        entries: list[Entry] = []
        for attempt, rows in sorted(self.open_attempts.items()):
            match data.draw(st.sampled_from(["none", "void", "results"])):
                case "void":
                    self.delivered.subtract(rows)  # the service says so, whether or not we live to note it
                    self.delivered += Counter()
                    entries.append(Answer(attempt, 5, data.draw(texts), None, 429, data.draw(texts)))
                case "results":
                    said = data.draw(st.lists(results, min_size=len(rows), max_size=len(rows)))
                    entries.append(Answer(attempt, 6, None, Results.of(said), 200, data.draw(texts), b"body"))
        return entries

    @rule(data=st.data())
    @precondition(lambda self: self.open_attempts)
    def answer(self, data: st.DataObject) -> None:
        """Some of the attempts under way are answered, in one commit."""
        if entries := self.draw_answers(data):
            self.write(entries)

    @rule(entries=st.lists(settlements | holds | events, min_size=1, max_size=4))
    def note(self, entries: list[Entry]) -> None:
        """Anything else is noted."""
        self.write(entries)

    @rule()
    def refuse(self) -> None:
        """A group in which one entry cannot be written leaves nothing."""
        with pytest.raises(StateRefused):
            self.journal.write([Event("lost", 1, {}), Answer(self.last_attempt + 1, 1, "net.connect_failed", None)])

    @rule()
    def checkpoint(self) -> None:
        """SQLite brings the WAL's content into the main file, as it does by itself when the WAL has grown."""
        self.journal._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self.checkpointed = len(self.commits)

    @rule()
    def close_and_reopen(self) -> None:
        """A clean stop, and a resume."""
        self.journal.close()
        del self.journal
        assert not wal(self.path).exists()
        assert look(self.path) == expected(self.commits)
        self.open(Journal.reopen)

    @rule()
    def leave_and_reopen(self) -> None:
        """An unclean stop in good order, and a resume."""
        self.journal.leave()
        del self.journal
        assert look(self.path) == expected(self.commits)
        self.open(Journal.reopen)

    @rule()
    def crash(self) -> None:
        """The process is killed between two commits."""
        self.go_on_from(Files.of(self.path), self.commits)

    @rule(data=st.data(), share=shares, zeroed=st.booleans())
    def crash_in_a_commit(self, data: st.DataObject, share: float, zeroed: bool) -> None:
        """Process or power dies when an unacknowledged commit's bytes have come to any place."""
        before = Files.of(self.path)
        entries = self.draw_answers(data) or self.draw_intents(lambda low, high: data.draw(st.integers(low, high)), 2)
        entries = entries or [Event("long", 1, {"text": "x" * data.draw(st.integers(0, 9_000))})]
        self.journal.write(entries)
        after = Files.of(self.path)
        # A WAL that begins anew keeps its length. Its header stands in one sector, which a disk writes whole.
        start = before.end if before.generation == after.generation else HEADER
        cut = start + round(share * (after.end - start))
        rest = bytes(max(len(before.wal) - cut, 0)) if zeroed else before.wal[cut:]
        torn = Files(before.main, after.wal[:cut] + rest)
        came_through = torn.wal[: after.end] == after.wal[: after.end]
        self.go_on_from(torn, [*self.commits, entries] if came_through else self.commits)

    @rule(share=shares, pages=st.lists(st.booleans(), min_size=1, max_size=7))
    def crash_in_a_checkpoint(self, share: float, pages: list[bool]) -> None:
        """The power dies when only some pages of a checkpoint have come into the main file."""
        before = Files.of(self.path)
        self.journal._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        new = self.path.read_bytes()
        mixed = bytearray(before.main)
        for number, start in enumerate(range(0, len(new), PAGE)):
            if pages[number % len(pages)] and start < share * len(new):
                mixed.extend(bytes(max(0, start - len(mixed))))
                mixed[start : start + PAGE] = new[start : start + PAGE]
        self.go_on_from(Files(bytes(mixed), before.wal), self.commits)

    def go_on_from(self, files: Files, commits: list[list[Entry]]) -> None:
        """What a crash left is looked at, and the run resumed from it."""
        self.journal.leave()
        del self.journal
        self.path = files.put(self.new_folder())
        assert look(self.path) == expected(commits)
        assert Files.of(self.path) == files
        if len(commits) > len(self.commits):
            self.ends.append((files.generation, files.end))
            self.last_attempt = max(
                [self.last_attempt, *(entry.attempt for entry in commits[-1] if isinstance(entry, Intent))]
            )
        self.commits = list(commits)
        self.open(Journal.reopen)

    @rule(share=shares)
    def lose_the_end(self, share: float) -> None:
        """A copy whose WAL was cut short has lost the last commits and no part of one, or is refused."""
        files = Files.of(self.path)
        here = [end for generation, end in self.ends[: self.checkpointed] if generation == files.generation]
        floor = max(here, default=HEADER)  # what was brought into the main file had been on the disk before
        cut = floor + round(share * (files.end - floor))
        path = Files(files.main, files.wal[:cut]).put(self.new_folder())
        if cut < LEAST_WAL:
            with pytest.raises(StateRefused, match="is gone"):
                look(path)
            with pytest.raises(StateRefused, match="is gone"):
                Journal.reopen(path, **RUN)
            return
        survivors = self.checkpointed
        while survivors < len(self.ends) and self.ends[survivors][1] <= cut:
            survivors += 1
        assert look(path) == expected(self.commits[:survivors])
        journal = Journal.reopen(path, **RUN)
        assert actual(journal) == expected(self.commits[:survivors])
        journal.close()
        assert look(path) == expected(self.commits[:survivors])

    @rule()
    def lose_the_wal(self) -> None:
        """A copy of the main file alone is refused."""
        path = self.new_folder() / "journal.db"
        path.parent.mkdir()
        shutil.copy(self.path, path)
        with pytest.raises(StateRefused, match="is gone"):
            look(path)

    @invariant()
    def says_what_it_was_told(self) -> None:
        if hasattr(self, "journal"):
            assert actual(self.journal) == expected(self.commits)

    @invariant()
    def nothing_may_be_sent_twice(self) -> None:
        if hasattr(self, "journal"):
            marks = self.journal.marks(ROWS)
            assert all(marks[row] == SENT for row in self.delivered)
            assert max(self.delivered.values(), default=0) <= 1

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            assert look(self.path) == expected(self.commits)
        shutil.rmtree(self.place)


JournalMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("BULKISSUE_MACHINE_EXAMPLES", "50")), stateful_step_count=25, deadline=None
)
test_journal_machine = JournalMachine.TestCase
