"""Group commit: a lane goes on only when its entry is on the disk, and no entry or trouble is lost on the way."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path

import pytest

from bulkissue.errors import StateRefused
from bulkissue.state.entries import Answer, Event, Intent
from bulkissue.state.journal import Journal
from bulkissue.state.journal_writer import JournalWriter

RUN = {"run_id": "run", "plan_sha256": "plan"}


class Gate:
    """Holds the journal's commits up, as another writer would, until it is opened; and writes them down."""

    def __init__(self, journal: Journal) -> None:
        self.commits: list[str] = []  # each by the name of its thread
        self._other = sqlite3.connect(journal.path, isolation_level=None, check_same_thread=False)
        self._other.execute("BEGIN IMMEDIATE")
        journal._writer.set_trace_callback(self._note)

    def _note(self, statement: str) -> None:
        if statement == "COMMIT":
            self.commits.append(threading.current_thread().name)

    def open(self) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


async def begun(writer: JournalWriter) -> None:
    """Return once all that was noted is in a commit under way."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert writer._committing is not None
    assert writer._gathered == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Journal:
    return Journal.create(path, **RUN)


def intent(number: int) -> Intent:
    return Intent(number, number, [number], 1)


def on_disk(path: Path) -> list[int]:
    """What another reader finds at this moment."""
    looked = Journal.look(path, **RUN)
    try:
        return [attempt.attempt for attempt in looked.attempts()]
    finally:
        looked.leave()


def drive(story: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


async def trouble_of(note: Awaitable[None]) -> BaseException | None:
    try:
        await note
    except BaseException as trouble:  # noqa: BLE001 - what it is, is the question
        return trouble
    return None


def test_on_disk_when_told(path: Path, journal: Journal) -> None:
    """When a lane is told that its entry is noted, any reader finds it."""

    async def lane(writer: JournalWriter, first: int) -> None:
        for number in range(first, first + 5):
            await writer.note(intent(number))
            assert number in on_disk(path)

    async def story() -> None:
        writer = JournalWriter(journal)
        await asyncio.gather(*(lane(writer, 1 + 5 * number) for number in range(6)))
        await writer.close()

    drive(story)
    assert on_disk(path) == list(range(1, 31))
    journal.close()


def test_not_told_before(path: Path, journal: Journal) -> None:
    """While a commit is under way its lanes wait, the loop goes on, and what gathers becomes one commit."""
    gate = Gate(journal)

    async def story() -> None:
        writer = JournalWriter(journal)
        notes = [asyncio.create_task(writer.note(intent(1)))]
        await begun(writer)
        notes += [asyncio.create_task(writer.note(intent(number))) for number in range(2, 9)]
        await asyncio.sleep(0.02)
        assert not any(note.done() for note in notes)
        assert on_disk(path) == []
        gate.open()
        await asyncio.gather(*notes)
        await writer.close()

    drive(story)
    assert len(gate.commits) == 2
    assert len(set(gate.commits)) == 1
    assert threading.main_thread().name not in gate.commits
    assert on_disk(path) == list(range(1, 9))
    journal.close()


def test_in_order(journal: Journal) -> None:
    """Entries are noted in the order in which they came."""

    async def story() -> None:
        writer = JournalWriter(journal)
        await asyncio.gather(*(writer.note(Event(str(number), number, {})) for number in range(200)))
        await writer.close()

    drive(story)
    assert [event.at for event in journal.events()] == list(range(200))
    journal.close()


def test_cancelled_lane(path: Path, journal: Journal) -> None:
    """A lane that is cancelled while it waits takes neither its own entry nor another's with it."""
    gate = Gate(journal)

    async def story() -> None:
        writer = JournalWriter(journal)
        notes = [asyncio.create_task(writer.note(intent(1)))]
        await begun(writer)
        notes += [asyncio.create_task(writer.note(intent(number))) for number in (2, 3, 4)]
        await asyncio.sleep(0)
        notes[0].cancel()
        notes[2].cancel()
        await asyncio.sleep(0)
        gate.open()
        troubles = [await trouble_of(note) for note in notes]
        assert [type(trouble) for trouble in troubles] == [
            asyncio.CancelledError,
            type(None),
            asyncio.CancelledError,
            type(None),
        ]
        await writer.close()

    drive(story)
    assert on_disk(path) == [1, 2, 3, 4]
    journal.close()


def test_trouble_is_everyones(journal: Journal) -> None:
    """Where a commit fails, each of its lanes hears of it, and a cancelled one is no unheard complaint."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[object] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        writer = JournalWriter(journal)
        notes = [asyncio.create_task(writer.note(intent(number))) for number in (1, 2, 2)]
        await asyncio.sleep(0)
        notes[0].cancel()
        troubles = [await trouble_of(note) for note in notes]
        assert isinstance(troubles[0], asyncio.CancelledError)
        assert all(isinstance(trouble, StateRefused) for trouble in troubles[1:])
        assert isinstance(await trouble_of(writer.close()), StateRefused)
        notes.clear()
        troubles.clear()
        gc.collect()
        assert complaints == []

    drive(story)
    assert list(journal.attempts()) == []
    journal.close()


def test_nothing_is_sent_after_trouble(path: Path, journal: Journal) -> None:
    """Once a commit has failed no intent is taken any more, while answers to those under way still are."""
    journal.write([intent(1), intent(2)])
    gate = Gate(journal)

    async def story() -> None:
        writer = JournalWriter(journal)
        failing = asyncio.create_task(writer.note(Answer(9, 5, "http.429", None)))  # of no attempt
        await begun(writer)
        gathered = [
            asyncio.create_task(writer.note(intent(3))),
            asyncio.create_task(writer.note(Answer(1, 5, "http.429", None))),
        ]
        await asyncio.sleep(0)
        gate.open()
        assert isinstance(await trouble_of(failing), StateRefused)
        assert isinstance(await trouble_of(gathered[0]), StateRefused)
        assert await trouble_of(gathered[1]) is None
        assert isinstance(await trouble_of(writer.note(intent(4))), StateRefused)
        assert await trouble_of(writer.note(Answer(2, 5, "http.429", None))) is None
        assert isinstance(await trouble_of(writer.close()), StateRefused)

    drive(story)
    assert [(attempt.attempt, attempt.void) for attempt in journal.attempts()] == [(1, "http.429"), (2, "http.429")]
    journal.close()
    assert on_disk(path) == [1, 2]


def test_an_intent_given_up_after_trouble(path: Path, journal: Journal) -> None:
    """What is said of an intent that was refused takes no other lane's answer with it."""

    async def story() -> None:
        writer = JournalWriter(journal)
        await writer.note(intent(1))
        failing = [
            asyncio.create_task(writer.note(entry))
            for entry in (Event("a", 1, {"not JSON": object()}), intent(2))  # one commit
        ]
        for task in failing:
            assert isinstance(await trouble_of(task), TypeError)
        late = asyncio.create_task(writer.note(intent(3)))
        await asyncio.sleep(0)
        late.cancel()
        for attempt in (2, 3):
            writer.put(Answer(attempt, 5, "guard.signal", None))
        writer.put(Answer(1, 5, "http.429", None))
        assert isinstance(await trouble_of(writer.close()), TypeError)

    drive(story)
    journal.close()
    looked = Journal.look(path, **RUN)
    assert [(attempt.attempt, attempt.void) for attempt in looked.attempts()] == [(1, "http.429")]
    looked.leave()


def test_put(path: Path, journal: Journal) -> None:
    """What nobody waits for is on the disk after the close, before whatever was noted later, in one commit with it."""
    gate = Gate(journal)

    async def story() -> None:
        writer = JournalWriter(journal)
        first = asyncio.create_task(writer.note(intent(1)))
        await begun(writer)
        writer.put(Answer(1, 5, "http.429", None))
        second = asyncio.create_task(writer.note(intent(2)))
        await asyncio.sleep(0)
        gate.open()
        await first
        await second
        assert [(attempt.attempt, attempt.void) for attempt in journal.attempts()] == [(1, "http.429"), (2, None)]
        assert len(gate.commits) == 2
        writer.put(Answer(2, 6, "http.429", None))
        await writer.close()

    drive(story)
    assert [attempt.void for attempt in journal.attempts()] == ["http.429", "http.429"]
    journal.close()


def test_put_in_vain(journal: Journal) -> None:
    """Where what nobody waits for cannot be written, no later intent is taken, and the close says so."""

    async def story() -> None:
        writer = JournalWriter(journal)
        writer.put(Answer(7, 5, "http.429", None))  # to nothing that was ever sent
        for number in (1, 2):
            assert isinstance(await trouble_of(writer.note(intent(number))), StateRefused)
        assert isinstance(await trouble_of(writer.close()), StateRefused)

    drive(story)
    assert list(journal.attempts()) == []
    journal.close()


def test_any_trouble(journal: Journal) -> None:
    """Trouble that nobody foresaw reaches the lane as well, and does not leave it waiting."""

    async def story() -> None:
        writer = JournalWriter(journal)
        assert isinstance(await trouble_of(writer.note(Event("a", 1, {"not JSON": object()}))), TypeError)
        assert isinstance(await trouble_of(writer.close()), TypeError)

    drive(story)
    assert journal.events() == []
    journal.close()


def test_close_waits(path: Path, journal: Journal) -> None:
    """A close ends after the last commit, so that the journal can be closed after it."""
    gate = Gate(journal)

    async def story() -> None:
        writer = JournalWriter(journal)
        note = asyncio.create_task(writer.note(intent(1)))
        await begun(writer)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        gate.open()
        await closing
        assert on_disk(path) == [1]
        await note

    drive(story)
    journal.close()


def test_cancelled_close(path: Path, journal: Journal) -> None:
    """A close that is cancelled does not leave a commit running either."""
    gate = Gate(journal)

    async def story() -> None:
        writer = JournalWriter(journal)
        note = asyncio.create_task(writer.note(intent(1)))
        await begun(writer)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        closing.cancel()
        threading.Timer(0.05, gate.open).start()
        with suppress(asyncio.CancelledError):
            await closing
        assert on_disk(path) == [1]
        await note

    drive(story)
    assert not any(thread.name.startswith("journal") for thread in threading.enumerate())
    journal.close()


def test_close_of_nothing(journal: Journal) -> None:
    """A writer that was told nothing can be closed."""

    async def story() -> None:
        await JournalWriter(journal).close()

    drive(story)
    journal.close()
