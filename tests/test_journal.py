"""The journal: what it took is there after any crash, and what cannot be trusted is refused and left alone."""

import gc
import os
import random
import re
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkissue.errors import StateRefused
from bulkissue.outcomes import RESULT_FIELDS, Outcome, Results, RowResult
from bulkissue.state import attempts, journal_file
from bulkissue.state.entries import NEVER_SENT, ONLY_VOID, SENT, Answer, Ended, Entry, Event, Held, Intent, Settlement
from bulkissue.state.journal import Journal
from bulkissue.state.journal_file import APPLICATION_ID, FORMAT

RUN = {"run_id": "run", "plan_sha256": "plan"}
PROOF = RowResult(Outcome.SUCCEEDED, "answer.proof", customer_id="7", reference="71")
REFUSAL = RowResult(Outcome.FAILED, "api.8014", "кто это? 谁", code="8014")
PAGE = 4096
FRAME = 24 + PAGE
PREAMBLE = """\
import gc, os, random, resource, signal, sys, time
from pathlib import Path
from bulkissue.state.journal import *
from bulkissue.outcomes import RESULT_FIELDS, Outcome, Results, RowResult
RUN = {"run_id": "run", "plan_sha256": "plan"}
def pair(number):
    proof = RowResult(Outcome.SUCCEEDED, "answer.proof", reference=str(number))
    return [Intent(number, number, [number], 1), Answer(number, 2, None, Results.of([proof]), 200)]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""

#: Below this a WAL has no room for the frame that every open journal has.
LEAST_WAL = 32 + FRAME


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def owned() -> Iterator[Path]:
    """A folder that an unprivileged user can own: pytest's own ones lie below a folder that is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="bulkissue-test-"))
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def index(path: Path) -> Path:
    return path.with_name(path.name + "-shm")


def content(path: Path) -> dict[str, bytes]:
    """What of a journal counts: SQLite's index does not, nor does an empty WAL, which it puts beside what it reads."""
    return {found.name: found.read_bytes() for found in (path, wal(path)) if found.exists() and found.stat().st_size}


def copied(path: Path, folder: Path) -> Path:
    """The journal as a power cut would leave it now: main file and WAL, no index."""
    folder.mkdir()
    for name, found in content(path).items():
        (folder / name).write_bytes(found)
    return folder / path.name


def pair(number: int, rows: Sequence[int] = (0, 1)) -> list[Entry]:
    return [
        Intent(number, number, list(rows), 1_000 + number),
        Answer(number, 2_000 + number, None, Results.of([PROOF] * len(rows)), 200, f"request-{number}"),
    ]


def numbers(journal: Journal) -> list[int]:
    return [attempt.attempt for attempt in journal.attempts()]


def seen(path: Path) -> list[int]:
    journal = Journal.look(path, **RUN)
    try:
        return numbers(journal)
    finally:
        journal.leave()


def closed(path: Path, attempts: int) -> Path:
    journal = Journal.create(path, **RUN)
    for number in range(1, attempts + 1):
        journal.write(pair(number, range(number * 50, number * 50 + 50)))
    journal.close()
    return path


def executed(program: str, *arguments: object, code: int = 0) -> str:
    """What a real process printed; its program finds `RUN`, `pair` and the journal's names."""
    ended = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def crashed(path: Path, attempts: int = 3) -> Path:
    """The journal of a process that got SIGKILL after so many attempts."""
    executed(
        """
        journal = Journal.create(Path(sys.argv[1]), **RUN)
        for number in range(int(sys.argv[2])):
            journal.write(pair(number + 1))
        die()
        """,
        path,
        attempts,
        code=-9,
    )
    return path


def refused(path: Path, match: str, **run: str) -> None:
    """Both ways in are refused, and what is there stays as it was, byte by byte."""
    before = content(path)
    for way_in in (Journal.look, Journal.reopen):
        with pytest.raises(StateRefused, match=match):
            way_in(path, **{**RUN, **run})
        assert content(path) == before


@contextmanager
def no_larger_file_than(size: int) -> Iterator[None]:
    """The disk takes no byte beyond this offset of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder can be read and not written to. Modes mean nothing to root, so root is somebody else meanwhile."""
    nobody = 65534
    root = os.geteuid() == 0
    places = (*folder.iterdir(), folder)
    for place in places:
        place.chmod(0o500 if place.is_dir() else 0o400)
        if root:
            os.chown(place, nobody, nobody)
    if root:
        os.seteuid(nobody)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place in reversed(places):
            place.chmod(0o700 if place.is_dir() else 0o600)


# What goes in comes out.


def test_entries_come_back(path: Path) -> None:
    """Every kind of entry comes back as it went in, before and after a close."""
    settlement = Settlement(4, Outcome.SUCCEEDED, "resolve.issued", "seen", "71", "Zoë", "ticket №5", 70)
    later = Settlement(4, Outcome.FAILED, "resolve.not_issued", "", "", "Zoë", "ticket №6", 71)
    held = [Held(9, "dedupe.issued", "by run r1"), Held(2, "dedupe.unknown", "by run r2")]
    event = Event("service.throttled", 60, {"seconds": 1.5, "why": "多い", "n": None})
    journal = Journal.create(path, **RUN)
    journal.write(
        [
            Intent(1, 5, [0, 1], 10),
            Intent(2, 6, [4], 11),
            Answer(1, 20, None, Results.of([PROOF, REFUSAL]), 207, "req-1", b"\x00\xffbody"),
            Intent(3, 7, [5], 12),
            Answer(3, 21, "http.429", None, 429, "req-3"),
            *held,
            settlement,
            later,
            event,
        ]
    )
    for _ in range(2):
        first, second, third = journal.attempts()
        assert (first.batch, first.rows, first.sent_at, first.answered_at) == (5, [0, 1], 10, 20)
        assert (first.http_status, first.request_id, first.void) == (207, "req-1", None)
        assert first.results is not None
        assert first.results.outcome == ["succeeded", "failed"]
        assert first.results.message == ["", "кто это? 谁"]
        assert first.results.valid_till == ""
        assert (second.rows, second.answered_at, second.void, second.results) == ([4], None, None, None)
        assert (second.http_status, second.request_id) == (0, "")
        assert (third.void, third.results, third.http_status) == ("http.429", None, 429)
        assert [journal.body(number) for number in (1, 2, 3, 4)] == [b"\x00\xffbody", None, None, None]
        assert journal.settlements() == [settlement, later]
        assert journal.held() == sorted(held, key=lambda item: item.row)
        assert journal.events() == [event]
        assert journal.requests_and_attempts() == (3, 3)
        assert journal.next_attempt in {1, 4}
        journal.close()
        journal = Journal.reopen(path, **RUN)
        assert journal.next_attempt == 4
    journal.close()


def test_attempts_by_batch(path: Path) -> None:
    """Bounds of batches count themselves in, and the attempts come in the order sent."""
    journal = Journal.create(path, **RUN)
    journal.write([Intent(number, batch, [number], 1) for number, batch in enumerate([3, 1, 2, 3, 5, 2], 1)])
    assert [attempt.attempt for attempt in journal.attempts((2, 3))] == [1, 3, 4, 6]
    assert [attempt.attempt for attempt in journal.attempts((4, 4))] == []
    assert [attempt.attempt for attempt in journal.attempts((0, 9))] == numbers(journal) == [1, 2, 3, 4, 5, 6]
    assert journal.requests_and_attempts() == (4, 6)
    journal.close()


def test_marks(path: Path) -> None:
    """A row is sent as soon as one of its attempts is not proven void, whatever the others were."""
    journal = Journal.create(path, **RUN)
    journal.write(
        [
            *(Intent(number, number, rows, 1) for number, rows in enumerate([[0, 1], [1, 2], [3], [4], [4], [2]], 1)),
            Answer(1, 2, "net.connect_failed", None),
            Answer(3, 2, None, Results.of([PROOF])),
            Answer(4, 2, "http.429", None),
            Answer(5, 2, "http.429", None),
            Answer(6, 2, "http.429", None),
        ]
    )
    assert list(journal.marks(6)) == [ONLY_VOID, SENT, SENT, SENT, ONLY_VOID, NEVER_SENT]
    with pytest.raises(StateRefused, match="rows that the run does not have"):
        journal.marks(4)
    journal.close()


def test_what_only_counts(path: Path) -> None:
    """Outcomes, reasons and the last answer's time are told without the rows."""
    journal = Journal.create(path, **RUN)
    assert (journal.last_answer(), list(journal.outcomes())) == (0, [])
    failed = RowResult(Outcome.FAILED, "api.8015")
    journal.write(
        [
            *(Intent(number, number, rows, number) for number, rows in enumerate([[0, 1], [2], [3, 4, 5], [6, 7]], 1)),
            Answer(1, 12, None, Results.of([PROOF, failed])),
            Answer(2, 15, "http.429", None),
            Answer(4, 13, None, Results.of([failed, failed])),
        ]
    )
    assert journal.last_answer() == 15
    assert sorted(journal.outcomes(), key=lambda one: one[1]) == [
        (2, 1, 12, None, Ended(["succeeded", "failed"], ["answer.proof", "api.8015"])),
        (1, 2, 15, "http.429", None),
        (3, 3, None, None, None),
        (2, 4, 13, None, Ended("failed", "api.8015")),
    ]
    journal.close()


texts = st.sampled_from(["", "a", "b", "Ünï", "\x00\n", "𝔘", '"[]']) | st.text(max_size=5)
results = st.builds(RowResult, st.sampled_from(Outcome), texts, texts, texts, texts, texts, texts)


def test_results_come_back(path: Path) -> None:
    """Any results come back row by row, however many of their fields are alike."""
    journal = Journal.create(path, **RUN)

    @settings(max_examples=100, deadline=None)
    @given(found=st.lists(results, min_size=1, max_size=5), uniform=st.booleans())
    def come_back(found: list[RowResult], uniform: bool) -> None:
        found = [found[0]] * len(found) if uniform else found
        number = 1 + max(numbers(journal), default=0)
        journal.write([Intent(number, number, list(range(len(found))), 1), Answer(number, 2, None, Results.of(found))])
        (attempt,) = journal.attempts((number, number))
        for name in RESULT_FIELDS:
            value = getattr(attempt.results, name)
            assert isinstance(value, str) == (len({getattr(result, name) for result in found}) == 1)
            spread = value if isinstance(value, list) else [value] * len(found)
            assert spread == [getattr(result, name) for result in found]

    come_back()
    journal.close()


def test_body_is_bounded(path: Path) -> None:
    """No more than 256 KiB of a raw answer are kept."""
    journal = Journal.create(path, **RUN)
    journal.write([Intent(1, 1, [0], 1), Answer(1, 2, None, Results.of([PROOF]), 200, "", b"x" * 300_000)])
    assert journal.body(1) == b"x" * 262_144
    journal.close()


def test_nothing_is_changed(path: Path) -> None:
    """A second entry for the same attempt is refused, and for a held row the first reason stays."""
    journal = Journal.create(path, **RUN)
    journal.write([*pair(1), Held(3, "dedupe.issued", "first")])
    for again in pair(1):
        with pytest.raises(StateRefused):
            journal.write([again])
    with pytest.raises(StateRefused):
        journal.write([Answer(2, 1, "http.429", None)])  # no such intent
    journal.write([Held(3, "dedupe.unknown", "second")])
    assert journal.held() == [Held(3, "dedupe.issued", "first")]
    assert numbers(journal) == [1]
    journal.close()


def test_group_is_all_or_none(path: Path) -> None:
    """Where one entry of a group cannot be written, none of it is."""
    journal = Journal.create(path, **RUN)
    with pytest.raises(StateRefused):
        journal.write([*pair(1), Event("a", 1, {}), Intent(1, 1, [0], 1)])
    assert (numbers(journal), journal.events()) == ([], [])
    journal.write(pair(1))
    journal.close()
    assert seen(path) == [1]


def test_looking_cannot_write(path: Path) -> None:
    """A journal that is looked at takes no entry."""
    looked = Journal.look(closed(path, 1), **RUN)
    with pytest.raises(StateRefused):
        looked.write(pair(2))
    looked.leave()
    assert seen(path) == [1]


def test_private(path: Path) -> None:
    """Main file, WAL and index are for their owner only, whatever the umask."""
    before = os.umask(0)
    try:
        journal = Journal.create(path, **RUN)
        journal.write(pair(1))
    finally:
        os.umask(before)
    assert {place.name: place.stat().st_mode & 0o777 for place in path.parent.iterdir()} == {
        "journal.db": 0o600,
        "journal.db-wal": 0o600,
        "journal.db-shm": 0o600,
    }
    journal.close()
    assert [place.name for place in path.parent.iterdir()] == ["journal.db"]


# On the disk before anything is sent.


def test_full_synchronisation(path: Path) -> None:
    """A journal open for writing, new or not, is in WAL mode with full synchronisation."""
    for journal in (Journal.create(path, **RUN), Journal.reopen(path, **RUN)):
        writer = journal._writer
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        journal.leave()


@pytest.mark.skipif(shutil.which("strace") is None, reason="the order of system calls is seen with strace")
def test_durable_before_return(path: Path) -> None:
    """The WAL is on the disk before the main file says open, and again before `write` returns."""
    calls = path.with_name("calls")
    program = """
        import os, sys
        from pathlib import Path
        from bulkissue.state.journal import *
        journal = Journal.create(Path(sys.argv[1]), run_id="run", plan_sha256="plan")
        os.write(1, b"CREATED")
        journal.write([Intent(1, 1, [0], 1)])
        os.write(1, b"NOTED")
        journal.close()
        os.write(1, b"CLOSED")
    """
    traced = subprocess.run(
        [
            *(
                "strace",
                "-y",
                "-o",
                str(calls),
                "-e",
                "trace=write,pwrite64,fsync,fdatasync,?rename,?renameat,?renameat2",
            ),
            *(sys.executable, "-c", textwrap.dedent(program), str(path)),
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if b"ptrace" in traced.stderr:
        pytest.skip("strace may not trace here")
    assert traced.returncode == 0, traced.stderr
    story: list[str] = []
    main, folder = f"<{path}>", f"<{path.parent}>"
    for line in calls.read_text().splitlines():
        for what, pattern in {
            "new file on disk": rf"f\w*sync\(\d+<{path.parent}/\.journal\.db\.partial>",
            "named": rf"rename\w*\(.*{path}\"",
            "folder on disk": rf"f\w*sync\(\d+{folder}",
            "main file written": rf"pwrite64\(\d+{main}",
            "main file on disk": rf"f\w*sync\(\d+{main}",
            "WAL written": rf"pwrite64\(\d+<{wal(path)}>",
            "WAL on disk": rf"f\w*sync\(\d+<{wal(path)}>",
            "CREATED": r"write\(1.*CREATED",
            "NOTED": r"write\(1.*NOTED",
            "CLOSED": r"write\(1.*CLOSED",
        }.items():
            if re.match(pattern, line) and story[-1:] != [what]:
                story.append(what)
    named, created, noted, ended = (story.index(what) for what in ("named", "CREATED", "NOTED", "CLOSED"))
    assert story[named - 1] == "new file on disk"
    assert story[named + 1] == "folder on disk"
    marked = story.index("main file written")
    assert "WAL on disk" in story[named:marked]
    assert story[marked + 1] == "main file on disk"
    assert "folder on disk" in story[marked:created]
    assert set(story[created + 1 : noted]) == {"WAL written", "WAL on disk"}
    assert story[noted - 1] == "WAL on disk"
    marked = ended - story[ended::-1].index("main file written")
    entries = story.index("main file written", noted)
    assert entries < story.index("WAL written", noted) < marked
    assert "main file on disk" in story[entries:marked]
    assert story[marked + 1] == "main file on disk"
    assert "folder on disk" in story[marked:ended]


def test_create_refuses_leftovers(path: Path) -> None:
    """No journal is made where there is one, or where the WAL of one lies about."""
    crashed(path)
    before = content(path)
    with pytest.raises(StateRefused, match="exists already"):
        Journal.create(path, **RUN)
    assert content(path) == before
    path.unlink()
    with pytest.raises(StateRefused, match="exists already"):
        Journal.create(path, **RUN)
    assert not path.exists()


def test_create_is_whole_or_absent(tmp_path: Path) -> None:
    """Where the disk ends, a new journal is refused; it then has no name, or is whole."""
    refusals = 0
    for size in range(0, 50_000, 2_500):
        path = tmp_path / str(size) / "journal.db"
        path.parent.mkdir()
        with no_larger_file_than(size):
            try:
                Journal.create(path, **RUN).leave()
            except StateRefused:
                refusals += 1
        left = {place.name for place in path.parent.iterdir()}
        assert left <= {"journal.db", "journal.db-wal", "journal.db-shm"}, size
        if path.exists():
            journal = Journal.reopen(path, **RUN)
            assert numbers(journal) == []
            journal.close()
    assert refusals > 10


def test_create_beside_leftovers_of_a_killed_one(path: Path) -> None:
    """What a process left that was killed while it made a journal does not get into the next one."""
    other = closed(path.with_name("other.db"), 5)
    partial = path.with_name(".journal.db.partial")
    crash = crashed(path.with_name("third.db"))
    shutil.copy(other, partial)
    shutil.copy(wal(crash), wal(partial))
    shutil.copy(wal(crash), partial.with_name(partial.name + "-journal"))
    journal = Journal.create(path, **RUN)
    assert numbers(journal) == []
    journal.close()


# What cannot be trusted.


def test_refuses_missing(path: Path) -> None:
    """A journal that is not there is refused and not made."""
    refused(path, "is missing")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("with_wal", [False, True])
@pytest.mark.parametrize(
    "garbage", [b"", b"x", b"SQLite format 3\0", b"row,mobile\n1,9\n" * 400, random.Random(1).randbytes(50_000)]
)
def test_refuses_garbage(path: Path, garbage: bytes, with_wal: bool) -> None:
    """A main file that is no database is refused, and the WAL beside it stays as evidence."""
    crashed(path)
    path.write_bytes(garbage)
    if not with_wal:
        wal(path).unlink()
    refused(path, "cannot be used|not a journal")


@pytest.mark.parametrize(
    ("pragmas", "match"),
    [
        ("PRAGMA user_version = 1", "not a journal"),
        ("PRAGMA user_version = 1; PRAGMA journal_mode = WAL", "not a journal"),
        (f"PRAGMA application_id = {APPLICATION_ID + 1}; PRAGMA user_version = 1", "not a journal"),
        (
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT + 1}",
            "use the newer|formats up to",
        ),
        (f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}", "cannot be used"),
    ],
)
def test_refuses_foreign(path: Path, pragmas: str, match: str) -> None:
    """Another program's database, and a newer program's journal, are refused and not touched."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{pragmas}; CREATE TABLE customer (id); INSERT INTO customer VALUES (1)")
    refused(path, match)


@pytest.mark.parametrize("how", ["closed", "killed"])
@pytest.mark.parametrize("differs", ["run_id", "plan_sha256"])
def test_refuses_another_runs(path: Path, how: str, differs: str) -> None:
    """Another run's or plan's journal is refused, and remains what it was to its own run."""
    (closed if how == "closed" else crashed)(path, 3)
    refused(path, f"{differs} differs", **{differs: "other"})
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2, 3]
    journal.close()


def test_look_needs_no_plan(path: Path) -> None:
    """A look may leave the plan's digest out."""
    journal = Journal.look(closed(path, 1), run_id="run")
    assert journal.meta().items() >= {**RUN, "open": "0"}.items()
    journal.leave()


def test_refuses_truncated(path: Path) -> None:
    """A closed journal cut short at any length is refused."""
    whole = closed(path, 40).read_bytes()
    assert len(whole) > 8 * PAGE
    for size in sorted({*range(0, len(whole), PAGE), *range(1, len(whole), 1_999), len(whole) - 1}):
        path.write_bytes(whole[:size])
        refused(path, "cannot be used|not a journal|is damaged")


@pytest.mark.parametrize("damage", [bytes(PAGE), random.Random(2).randbytes(PAGE), b"\xff" * PAGE])
def test_refuses_damaged_pages(path: Path, damage: bytes) -> None:
    """A closed journal with any of its pages overwritten is refused."""
    whole = closed(path, 40).read_bytes()
    for start in range(0, len(whole), PAGE):
        path.write_bytes(whole[:start] + damage + whole[start + PAGE :])
        refused(path, "cannot be used|not a journal|is damaged")


def test_refuses_damaged_index(path: Path) -> None:
    """An index that hides an intent from its batch is refused."""
    closed(path, 40)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'intent_batch'").fetchone()
    whole = bytearray(path.read_bytes())
    place = whole.rindex(bytes([3, 1, 1, 20, 20]), 0, page * PAGE)  # batch 20, attempt 20
    assert place > (page - 1) * PAGE
    whole[place + 3] = 21
    path.write_bytes(whole)
    refused(path, "is damaged")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE intent SET rows = '[1, 2' WHERE attempt = 2",
        "UPDATE intent SET rows = '[-1]' WHERE attempt = 2",
        "UPDATE intent SET rows = CAST(x'ff' AS TEXT) WHERE attempt = 2",
        "UPDATE answer SET results = '{}' WHERE attempt = 2",
    ],
)
def test_refuses_damaged_values(path: Path, damage: str) -> None:
    """A value that cannot be what was written is refused when it is read, not guessed at."""
    closed(path, 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    journal = Journal.look(path, **RUN)
    reads = [lambda: numbers(journal), lambda: list(attempts.read(journal, [(1, 3)]))]
    # Each looks at no more than it needs.
    reads.append((lambda: journal.marks(1_000)) if "rows" in damage else (lambda: list(journal.outcomes())))
    for read in reads:
        with pytest.raises(StateRefused, match="cannot be read"):
            read()
    journal.leave()


def test_refuses_damaged_story(path: Path) -> None:
    """Settlements and events that cannot be what was written are refused when they are read."""
    journal = Journal.create(path, **RUN)
    journal.write([Event("a", 1, {}), Settlement(1, Outcome.FAILED, "resolve.not_issued", "", "", "a", "b", 1)])
    journal.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE settlement SET outcome = 'perhaps'")
        connection.execute("UPDATE event SET detail = '{'")
    journal = Journal.look(path, **RUN)
    for read in (journal.settlements, journal.events):
        with pytest.raises(StateRefused, match="cannot be read"):
            read()
    journal.leave()


# A WAL belongs to an open journal.


def with_zeros(whole: bytes) -> bytes:
    return bytes(len(whole))


def with_other_checksum(whole: bytes) -> bytes:
    return whole[:31] + bytes([whole[31] ^ 1]) + whole[32:]


@pytest.mark.parametrize(
    "rob",
    [
        lambda whole: b"",
        lambda whole: whole[:1],
        lambda whole: whole[:32],
        lambda whole: whole[: LEAST_WAL - 1],
        with_zeros,
        with_other_checksum,
        lambda whole: random.Random(3).randbytes(len(whole)),
        lambda whole: None,
    ],
)
def test_refuses_open_journal_without_its_wal(path: Path, rob: Callable[[bytes], bytes | None]) -> None:
    """An open journal whose WAL is gone, empty, or nothing that SQLite would read, is refused."""
    crashed(path)
    robbed = rob(wal(path).read_bytes())
    if robbed is None:
        wal(path).unlink()
    else:
        wal(path).write_bytes(robbed)
    index(path).unlink()
    refused(path, "is gone: the last intents are lost")


@pytest.mark.parametrize("attempts", [0, 1, 30])
def test_refuses_copy_of_the_main_file_alone(path: Path, tmp_path: Path, attempts: int) -> None:
    """A copy of an open journal's main file alone is refused, from the moment it may have taken an intent."""
    journal = Journal.create(path, **RUN)
    for number in range(attempts):
        journal.write(pair(number + 1))
    shutil.copy(path, tmp_path / "copy.db")
    journal.close()
    refused(tmp_path / "copy.db", "is gone")
    journal = Journal.reopen(path, **RUN)
    shutil.copy(path, tmp_path / "later.db")
    journal.close()
    refused(tmp_path / "later.db", "is gone")
    shutil.copy(path, tmp_path / "closed.db")
    assert seen(tmp_path / "closed.db") == list(range(1, attempts + 1))


def test_killed_process(path: Path) -> None:
    """Looking at a killed process's journal, with or without its index, changes nothing, and it opens again."""
    crashed(path)
    before = content(path)
    assert wal(path).name in before
    for _ in range(2):
        assert seen(path) == [1, 2, 3]
        assert content(path) == before
        index(path).unlink()
    journal = Journal.reopen(path, **RUN)
    assert (numbers(journal), journal.next_attempt) == ([1, 2, 3], 4)
    journal.write(pair(4))
    journal.close()
    assert journal_is_one_file(path)
    assert seen(path) == [1, 2, 3, 4]


def test_crash_while_a_commit_is_written(path: Path, tmp_path: Path) -> None:
    """Cut at any byte, a WAL still has every commit that stood whole before it."""
    journal = Journal.create(path, **RUN)
    ends = [wal(path).stat().st_size]
    for number in range(1, 5):
        journal.write(pair(number, range(200)))
        ends.append(wal(path).stat().st_size)
    whole = copied(path, tmp_path / "whole")
    journal.close()
    content_of_wal = wal(whole).read_bytes()
    cuts = {cut for end in ends for cut in (end - 1, end, end + 1, end + 24, end + 25)}
    for cut in sorted({*cuts, *range(LEAST_WAL, ends[-1], 2_003)} - {LEAST_WAL - 1}):
        place = tmp_path / "cut" / path.name
        place.parent.mkdir()
        shutil.copy(whole, place)
        wal(place).write_bytes(content_of_wal[:cut])
        survived = list(range(1, sum(end <= cut for end in ends)))
        assert seen(place) == survived, cut
        journal = Journal.reopen(place, **RUN)
        assert numbers(journal) == survived
        journal.close()
        assert seen(place) == survived
        shutil.rmtree(place.parent)


def test_crash_while_a_checkpoint_is_made(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A main file that only some pages of a checkpoint have come into is whole, and judged, through its WAL."""
    journal = Journal.create(path, **RUN)
    for number in range(1, 30):
        journal.write(pair(number, range(number * 50, number * 50 + 50)))
    place = copied(path, tmp_path / "copy")
    old = place.read_bytes()
    journal._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    new = path.read_bytes()
    journal.leave()
    pages = len(new) // PAGE
    assert pages > len(old) // PAGE + 2
    chance = random.Random(4)
    arrivals = [set(range(count)) for count in range(pages + 1)]
    arrivals += [set(chance.sample(range(pages), chance.randrange(pages))) for _ in range(20)]
    expected = list(range(1, 30))
    torn = tmp_path / "torn.db"
    torn.write_bytes(new[:PAGE] + old[PAGE:])
    shutil.copy(wal(place), wal(torn))
    with monkeypatch.context() as patched:
        patched.setattr(journal_file, "FORMAT", 0)
        refused(torn, "use the newer|formats up to")
    for arrived in arrivals:
        mixed = bytearray(old)
        for page in sorted(arrived):
            mixed[page * PAGE : page * PAGE] = b"" if page * PAGE < len(mixed) else bytes(page * PAGE - len(mixed))
            mixed[page * PAGE : (page + 1) * PAGE] = new[page * PAGE : (page + 1) * PAGE]
        trial = tmp_path / "trial" / path.name
        trial.parent.mkdir()
        trial.write_bytes(mixed)
        shutil.copy(wal(place), wal(trial))
        assert seen(trial) == expected, arrived
        journal = Journal.reopen(trial, **RUN)
        assert numbers(journal) == expected
        journal.leave()
        shutil.rmtree(trial.parent)


def test_truncated_main_file_beside_its_wal(path: Path, tmp_path: Path) -> None:
    """A killed process's main file, cut short, is refused or whole through its WAL, and never half believed."""
    closed(path, 40)
    journal = Journal.reopen(path, **RUN)
    journal.write(pair(41))
    place = copied(path, tmp_path / "copy")
    journal.close()
    whole, refusals = place.read_bytes(), 0
    for size in range(0, len(whole), 1_999):
        place.write_bytes(whole[:size])
        before = content(place)
        try:
            found = seen(place)
        except StateRefused:
            refusals += 1
        else:
            assert found == list(range(1, 42))
        assert content(place) == before
        index(place).unlink(missing_ok=True)
    assert refusals > 20


@pytest.mark.parametrize(
    "ending",
    [
        "journal.leave()",
        "del journal; gc.collect()",
        "sys.exit(0)",
        "raise SystemExit(0)",
        "unfinished = journal.attempts(); next(unfinished); journal.leave()",
        "unfinished = journal.attempts(); next(unfinished); cycle = [unfinished, journal]; cycle.append(cycle)",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1)); journal.close()",
    ],
)
def test_only_a_clean_close_takes_the_wal(path: Path, ending: str) -> None:
    """A process that ends in good order, but without a clean close, leaves its journal open and with its WAL."""
    program = "journal = Journal.create(Path(sys.argv[1]), **RUN)\njournal.write(pair(1))\n"
    executed(program + ending, path, code=1 if "close" in ending else 0)
    assert wal(path).stat().st_size >= LEAST_WAL
    journal = Journal.reopen(path, **RUN)
    assert journal.meta()["open"] == "1"
    assert numbers(journal) == [1]
    journal.close()


def test_failure_leaves_the_wal(path: Path) -> None:
    """An exception that nobody catches before the journal goes out of sight leaves it open and with its WAL."""
    journal: Journal | None = Journal.create(path, **RUN)
    assert journal is not None
    journal.write(pair(1))
    unfinished = journal.attempts()
    next(unfinished)
    journal = None
    del unfinished
    gc.collect()
    assert wal(path).stat().st_size >= LEAST_WAL
    assert seen(path) == [1]


def test_other_programs_may_read(path: Path) -> None:
    """Another program that opens the journal of a living run, and is the last to close it, does not take its WAL."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    assert seen(path) == [1]  # its closing must not let the run's own locks go
    executed(
        """
        import sqlite3
        connection = sqlite3.connect(sys.argv[1])
        assert connection.execute("SELECT count(*) FROM intent").fetchone() == (1,)
        connection.close()
        """,
        path,
    )
    assert wal(path).stat().st_size >= LEAST_WAL
    journal.write(pair(2))
    journal.close()
    assert seen(path) == [1, 2]


def test_taken_out_of_wal_mode(path: Path) -> None:
    """A closed journal that another program took out of WAL mode opens again, and has a WAL as long as it is open."""
    closed(path, 2)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    assert seen(path) == [1, 2]
    journal = Journal.reopen(path, **RUN)
    journal.write(pair(3))
    journal.leave()
    assert wal(path).stat().st_size >= LEAST_WAL
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2, 3]
    journal.close()


def test_close_brings_the_entries_first(path: Path, tmp_path: Path) -> None:
    """Before a close takes the mark back, the main file alone holds every entry."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    alone = tmp_path / "alone.db"

    def copy(statement: str) -> None:
        if statement.startswith("UPDATE meta"):
            shutil.copy(path, alone)

    journal._writer.set_trace_callback(copy)
    journal.close()
    with closing(sqlite3.connect(f"file:{alone}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT attempt FROM intent").fetchall() == [(1,)]
        assert connection.execute("SELECT value FROM meta WHERE key = 'open'").fetchone() == ("1",)


def test_close_while_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close that a reader stands in the way of loses nothing, and a copy without the WAL is refused."""
    monkeypatch.setattr(journal_file, "_PATIENCE_SECONDS", 0.05)
    journal = Journal.create(path, **RUN)
    journal.write([*pair(1), *pair(2), *pair(3)])
    looked = Journal.look(path, **RUN)
    reading = looked.attempts()
    next(reading)
    journal.write(pair(4))
    journal.close()
    shutil.copy(path, path.with_name("alone.db"))
    refused(path.with_name("alone.db"), "is gone")
    assert [attempt.attempt for attempt in reading] == [2, 3]
    looked.leave()
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2, 3, 4]
    journal.close()
    assert journal_is_one_file(path)


def journal_is_one_file(path: Path) -> bool:
    return path.exists() and not wal(path).exists() and not index(path).exists()


def test_standing_still(path: Path) -> None:
    """Inside the block a look sees one moment, and after it the present one."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    looked = Journal.look(path, **RUN)
    with looked.standing_still():
        assert numbers(looked) == [1]
        journal.write([*pair(2), Event("a", 1, {})])
        assert (numbers(looked), looked.events()) == ([1], [])
    assert (numbers(looked), len(looked.events())) == ([1, 2], 1)
    with looked.standing_still():
        looked.leave()
    journal.close()


def test_close_while_looked_at(path: Path) -> None:
    """A look that goes on over a clean close sees it, and does not stand in the next one's way."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    looked = Journal.look(path, **RUN)
    assert numbers(looked) == [1]
    journal.write(pair(2))
    journal.close()
    assert numbers(looked) == [1, 2]
    assert looked.meta()["open"] == "0"
    journal = Journal.reopen(path, **RUN)
    journal.write(pair(3))
    assert numbers(looked) == [1, 2, 3]
    looked.leave()
    journal.close()
    assert journal_is_one_file(path)


def test_reopen_while_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal is not open for writing before its main file says so, even if a reader stands in the way of that."""
    monkeypatch.setattr(journal_file, "_PATIENCE_SECONDS", 0.05)
    closed(path, 3)
    looked = Journal.look(path, **RUN)
    reading = looked.attempts()
    next(reading)
    with pytest.raises(StateRefused, match="is being read"):
        Journal.reopen(path, **RUN)
    monkeypatch.setattr(journal_file, "_PATIENCE_SECONDS", 20)
    ends = threading.Timer(0.05, lambda: list(reading))
    ends.start()
    Journal.reopen(path, **RUN).close()  # waits for the reader
    ends.join()
    looked.leave()
    assert seen(path) == [1, 2, 3]


def test_look_while_written(path: Path) -> None:
    """Looks are never refused while another process opens, writes and closes, and never see an entry less."""
    program = """
        path, number = Path(sys.argv[1]), 0
        journal = Journal.create(path, **RUN)
        print("made", flush=True)
        while not path.with_name("enough").exists():
            journal._writer.execute("PRAGMA wal_autocheckpoint = 4")
            for _ in range(8):
                number += 1
                journal.write([Intent(number, number, list(range(100)), 1)])
            journal.close()
            journal = Journal.reopen(path, **RUN)
        journal.close()
        print(number)
    """
    with subprocess.Popen([sys.executable, "-c", PREAMBLE + textwrap.dedent(program), path], stdout=PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"made\n"
        counts: list[int] = []
        try:
            while len(counts) < 60 and writer.poll() is None:
                found = seen(path)
                assert found == list(range(1, len(found) + 1))
                counts.append(len(found))
        finally:
            path.with_name("enough").touch()  # else it would be waited for, for ever
        written = int(writer.stdout.read())
    assert counts == sorted(counts)
    assert seen(path) == list(range(1, written + 1))


def test_look_while_opened_or_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that falls together with another process's opening or clean close is not refused."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    is_wal = journal_file._is_wal
    calls: list[Path] = []
    reopened: list[Journal] = []

    def close_between(found: Path) -> bool:
        calls.append(found)
        if len(calls) == 2:
            journal.close()
        return is_wal(found)

    def open_between(found: Path) -> bool:
        there = is_wal(found)
        monkeypatch.setattr(journal_file, "_is_wal", is_wal)
        reopened.append(Journal.reopen(path, **RUN))
        return there

    monkeypatch.setattr(journal_file, "_is_wal", close_between)
    assert seen(path) == [1]
    if len(calls) < 2:
        journal.close()
    monkeypatch.setattr(journal_file, "_is_wal", open_between)
    assert seen(path) == [1]
    reopened[0].close()


def test_random_kills(path: Path) -> None:
    """Killed at random instants, over and over, a journal keeps all it acknowledged, and no more than one beyond."""
    said = executed(
        """
        path, chance = Path(sys.argv[1]), random.Random()
        acknowledged = kills = checkpoints = 0
        for _ in range(60):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                make = Journal.reopen if path.exists() else Journal.create
                journal = make(path, **RUN)
                journal._writer.execute("PRAGMA wal_autocheckpoint = 5")
                while True:
                    number = journal.next_attempt
                    journal.next_attempt += 1
                    journal.write([Intent(number, number, list(range(150)), 1), *pair(number)[1:]])
                    os.write(writing, number.to_bytes(4, "big"))
            os.close(writing)
            told = os.read(reading, 4) if chance.random() < 0.8 else b""  # most have come to write
            time.sleep(chance.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            with os.fdopen(reading, "rb") as pipe:
                told += pipe.read()
            if told:
                acknowledged = int.from_bytes(told[-4:], "big")
            if not path.exists():
                continue
            looked = Journal.look(path, **RUN)
            found = [attempt.attempt for attempt in looked.attempts()]
            looked.leave()
            assert found in (list(range(1, acknowledged + 1)), list(range(1, acknowledged + 2))), (acknowledged, found)
            acknowledged = len(found)
        print(acknowledged)
        """,
        path,
    )
    assert int(said) > 20


# A disk that is full, or cannot be written to.


@pytest.mark.parametrize("room", [0, 10, 30, FRAME - 1, FRAME + 10, 2 * FRAME + 30])
def test_full_disk(path: Path, tmp_path: Path, room: int) -> None:
    """Where the disk ends inside a commit, it is refused, nothing of it stays, and it can be made good later."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    with no_larger_file_than(wal(path).stat().st_size + room):
        for _ in range(3):
            with pytest.raises(StateRefused, match="cannot be used"):
                journal.write([*pair(2, range(3_000)), Event("a", 1, {})])
        assert (numbers(journal), journal.events()) == ([1], [])
    assert seen(copied(path, tmp_path / "full")) == [1]
    journal.write(pair(2))
    assert seen(copied(path, tmp_path / "later")) == [1, 2]
    journal.close()
    assert seen(path) == [1, 2]


def test_full_database(path: Path) -> None:
    """A commit for which SQLite has no page left is refused, and nothing of it stays."""
    journal = Journal.create(path, **RUN)
    journal.write(pair(1))
    journal._writer.execute("PRAGMA max_page_count = 10")
    with pytest.raises(StateRefused, match="full"):
        journal.write([*pair(2), Intent(3, 3, list(range(100_000)), 1)])
    assert numbers(journal) == [1]
    journal.write(pair(2))
    journal.leave()
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2]
    journal.close()


@pytest.mark.parametrize("size", [0, 20, 5_000, 9_000])
def test_full_disk_at_the_opening(path: Path, size: int) -> None:
    """Where there is no room to say that a run is open, it is not, and a later attempt can open it."""
    closed(path, 3)
    with no_larger_file_than(size), pytest.raises(StateRefused, match="cannot be used"):
        Journal.reopen(path, **RUN)
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2, 3]
    journal.close()


def test_full_disk_at_the_close(path: Path) -> None:
    """A close for which there is no room is refused and leaves a journal that opens again, with all entries."""
    journal = Journal.create(path, **RUN)
    for number in range(1, 4):
        journal.write(pair(number))
    with no_larger_file_than(100), pytest.raises(StateRefused, match="cannot be used"):
        journal.close()
    with pytest.raises(StateRefused, match="closed"):
        journal.write(pair(4))
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2, 3]
    journal.close()


@pytest.mark.parametrize("how", ["closed", "killed", "killed, without its index"])
def test_read_only_folder(owned: Path, how: str) -> None:
    """In a folder that cannot be written to, any journal can be looked at and none can be opened for writing."""
    path = owned / "journal.db"
    (closed if how == "closed" else crashed)(path, 3)
    if how == "killed, without its index":
        index(path).unlink()
    before = {place.name for place in owned.iterdir()}
    with read_only(owned):
        assert seen(path) == [1, 2, 3]
        assert {place.name for place in owned.iterdir()} == before
        with pytest.raises(StateRefused, match="cannot be used"):
            Journal.reopen(path, **RUN)
        with pytest.raises(StateRefused, match="another run"):
            Journal.look(path, run_id="other")
        with pytest.raises(StateRefused, match="cannot be used"):
            Journal.create(owned / "new.db", **RUN)
    journal = Journal.reopen(path, **RUN)
    assert numbers(journal) == [1, 2, 3]
    journal.close()


def test_read_only_folder_without_the_wal(owned: Path) -> None:
    """An open journal without its WAL is refused in a folder that cannot be written to, too."""
    path = crashed(owned / "journal.db")
    wal(path).unlink()
    index(path).unlink()
    with read_only(owned):
        refused(path, "is gone")


def test_look_leaves_no_copy(owned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy that a look in a read-only folder makes goes with it, trusted or not."""
    path = closed(owned / "journal.db", 3)
    tmp_path.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(owned.with_name(owned.name + "-tmp")))
    place = Path(str(tempfile.tempdir))
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    try:
        with read_only(owned):
            journal = Journal.look(path, **RUN)
            assert len(list(place.iterdir())) == 1
            journal.leave()
            assert list(place.iterdir()) == []
            with pytest.raises(StateRefused):
                Journal.look(path, run_id="other")
            assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)


def test_wal_checksum_is_sqlites(path: Path) -> None:
    """What we take for a WAL is what SQLite takes for one, in both byte orders of its checksum."""
    crashed(path)
    whole = wal(path).read_bytes()
    assert journal_file._is_wal(wal(path))
    magic, *rest = struct.unpack(">6I", whole[:24])
    first = second = 0
    other = struct.pack(">6I", magic ^ 1, *rest)
    for one, two in struct.iter_unpack("<2I" if magic & 1 else ">2I", other):
        first = (first + one + second) % 2**32
        second = (second + two + first) % 2**32
    wal(path).write_bytes(other + struct.pack(">2I", first, second) + whole[32:])
    assert journal_file._is_wal(wal(path))
