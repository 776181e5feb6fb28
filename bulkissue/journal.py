"""
The journal: intents, answers and settlements of one run; the only truth about what was sent.

SQLite in WAL mode with full synchronisation, one writer. `write` returns when its entries are on the
disk; no byte of an attempt may leave before that. Nothing in it is ever changed or deleted.

While a run is open, the main file says so and the WAL beside it is never empty: a main file alone
passes SQLite's own checks and yet lacks the last intents, so an open journal without its WAL is
refused. A clean close checkpoints everything into the one file.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from bulkissue.errors import StateRefused
from bulkissue.files import replacing_path, sync_folder
from bulkissue.outcomes import Outcome, RowResult

#: "bulk" in ASCII: what SQLite files of ours carry in their header.
APPLICATION_ID = 0x62756C6B
FORMAT = 1

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE intent (
    attempt INTEGER PRIMARY KEY,
    batch   INTEGER NOT NULL,
    rows    TEXT NOT NULL,      -- JSON array of places in the run's input, from 0
    sent_at INTEGER NOT NULL    -- milliseconds since 1970, UTC; the bytes leave after this entry is on the disk
);
CREATE INDEX intent_batch ON intent (batch);
CREATE TABLE answer (
    attempt     INTEGER PRIMARY KEY REFERENCES intent,
    answered_at INTEGER NOT NULL,
    void        TEXT,           -- why the attempt is proven not applied; null where its rows have results
    results     TEXT,           -- JSON: a value, or an array in the order of intent.rows, for each field
    http_status INTEGER NOT NULL,
    request_id  TEXT NOT NULL,
    body        BLOB            -- the raw answer, where any row is not a clean success or refusal
);
CREATE TABLE settlement (       -- what was found out about an unknown row afterwards; the last one counts
    id         INTEGER PRIMARY KEY,
    row        INTEGER NOT NULL,
    outcome    TEXT NOT NULL,
    reason     TEXT NOT NULL,
    message    TEXT NOT NULL,
    reference  TEXT NOT NULL,
    settled_by TEXT NOT NULL,
    evidence   TEXT NOT NULL,
    settled_at INTEGER NOT NULL
);
CREATE TABLE held (             -- rows that left their batch at a resume: another run had issued them
    row     INTEGER PRIMARY KEY,
    reason  TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE event (            -- the run's own story: opened, waited, stopped, finished
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    name   TEXT NOT NULL,
    detail TEXT NOT NULL        -- JSON object
);
"""

#: Rows of a settled answer, field by field; in this order in every frame made from them.
RESULT_FIELDS = ("outcome", "reason", "message", "code", "customer_id", "reference", "valid_till")

#: What `Journal.marks` says of a row.
NEVER_SENT, ONLY_VOID, SENT = range(3)

_BODY_LIMIT = 256 * 1024
_encode = msgspec.json.Encoder().encode


class Results(msgspec.Struct, gc=False):
    """The results of an answer: each field either one value for all rows or a list with one for each."""

    outcome: str | list[str]
    reason: str | list[str]
    message: str | list[str]
    code: str | list[str]
    customer_id: str | list[str]
    reference: str | list[str]
    valid_till: str | list[str]


_decode_results = msgspec.json.Decoder(Results).decode
_decode_rows = msgspec.json.Decoder(list[int]).decode


@dataclass(frozen=True, slots=True)
class Intent:
    """An attempt is about to be sent: `attempt` is its number in this run, `at` is epoch milliseconds."""

    attempt: int
    batch: int
    rows: Sequence[int]
    at: int


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What became of an attempt.

    Attributes:
        attempt: The intent it answers.
        at: Epoch milliseconds.
        void: Why it is proven not applied; None where its rows have results.
        results: One for each of the intent's rows, in order; empty where void.
        http_status: 0 where no answer came.
        request_id: The service's id for the exchange.
        body: The raw answer, kept where it will be needed as evidence.
    """

    attempt: int
    at: int
    void: str | None
    results: Sequence[RowResult]
    http_status: int = 0
    request_id: str = ""
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was found out about one unknown row, by whom and from what."""

    row: int
    outcome: Outcome
    reason: str
    message: str
    reference: str
    settled_by: str
    evidence: str
    at: int


@dataclass(frozen=True, slots=True)
class Held:
    """A row that must not be sent any more, because another run issued it meanwhile."""

    row: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something in the run's own story."""

    name: str
    at: int
    detail: dict[str, object]


Entry = Intent | Answer | Settlement | Held | Event


@dataclass(frozen=True, slots=True)
class Attempt:
    """An intent with its answer, as read back; `answered_at` is None where there is no answer."""

    attempt: int
    batch: int
    rows: list[int]
    sent_at: int
    answered_at: int | None
    void: str | None
    results: Results | None
    http_status: int
    request_id: str


class Journal:
    """
    One run's journal.

    Made by `create`, `reopen` or `look`; usable from one thread at a time.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.next_attempt = 1 + self._one("SELECT coalesce(max(attempt), 0) FROM intent")

    @classmethod
    def create(cls, path: Path, *, run_id: str, plan_sha256: str) -> Self:
        """
        A new journal, open for writing.

        Raises:
            StateRefused: There is one already, or it cannot be written.
        """
        if path.exists():
            raise StateRefused(f"{path} exists already", hint="bulkissue resume goes on with a run")
        try:
            # Whole or not there at all: a crash in the middle leaves a run that has sent nothing.
            with replacing_path(path) as partial, closing(sqlite3.connect(partial)) as connection:
                connection.executescript(
                    f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};BEGIN; {_SCHEMA} COMMIT;"
                )
                with connection:
                    connection.executemany(
                        "INSERT INTO meta VALUES (?, ?)",
                        [("run_id", run_id), ("plan_sha256", plan_sha256), ("open", "0")],
                    )
        except sqlite3.Error as trouble:
            raise _refused(path, trouble) from trouble
        return cls.reopen(path, run_id=run_id, plan_sha256=plan_sha256)

    @classmethod
    def reopen(cls, path: Path, *, run_id: str, plan_sha256: str) -> Self:
        """
        This run's journal, open for writing.

        Raises:
            StateRefused: It is missing, torn, of another run or plan, of a newer format, or was left
                open and its WAL is gone.
        """
        return cls._trusted(path, run_id, plan_sha256, _connect).begin()

    @classmethod
    def look(cls, path: Path, *, run_id: str, plan_sha256: str | None = None) -> Self:
        """This run's journal for reading only, also while another process writes it. Raises as `reopen` does."""
        return cls._trusted(path, run_id, plan_sha256, _connect_reading)

    @classmethod
    def _trusted(
        cls, path: Path, run_id: str, plan_sha256: str | None, connect: Callable[[Path], sqlite3.Connection]
    ) -> Self:
        if not path.exists():
            raise StateRefused(f"{path} is missing", hint="restore the run folder as it was")
        with ExitStack() as on_trouble:
            try:
                _refuse_lost_wal(path)
                connection = connect(path)
                on_trouble.callback(connection.close)
                if problem := _distrust(connection):
                    raise StateRefused(f"{path} {problem}", hint="restore the whole run folder from a copy")
                journal = cls(path, connection)
                meta = journal.meta()
            except sqlite3.Error as trouble:
                raise _refused(path, trouble) from trouble
            for key, value in (("run_id", run_id), ("plan_sha256", plan_sha256)):
                if value is not None and meta.get(key) != value:
                    raise StateRefused(f"{path} is another run's journal: its {key} differs")
            on_trouble.pop_all()
        return journal

    def begin(self) -> Self:
        """Say in the main file that the run is open for writing; from here the WAL beside it is never empty."""
        try:
            with self._connection:
                self._connection.execute("UPDATE meta SET value = '1' WHERE key = 'open'")
            # PASSIVE leaves the frames in the WAL file; TRUNCATE would leave it empty, as a lost one is.
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as trouble:
            raise _refused(self.path, trouble) from trouble
        sync_folder(self.path.parent)
        return self

    def write(self, entries: Iterable[Entry]) -> None:
        """
        Put entries on the disk, all or none; durable when this returns.

        Raises:
            StateRefused: They could not be written. Nothing may be sent after that.
        """
        try:
            with self._connection:
                for entry in entries:
                    self._insert(entry)
        except sqlite3.Error as trouble:
            raise _refused(self.path, trouble) from trouble

    def _insert(self, entry: Entry) -> None:
        execute = self._connection.execute
        match entry:
            case Intent():
                execute(
                    "INSERT INTO intent VALUES (?, ?, ?, ?)",
                    (entry.attempt, entry.batch, _encode(entry.rows).decode(), entry.at),
                )
            case Answer():
                body = entry.body[:_BODY_LIMIT] if entry.body is not None else None
                results = None if entry.void is not None else _encode(_columns(entry.results)).decode()
                execute(
                    "INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (entry.attempt, entry.at, entry.void, results, entry.http_status, entry.request_id, body),
                )
            case Settlement():
                execute(
                    "INSERT INTO settlement"
                    " (row, outcome, reason, message, reference, settled_by, evidence, settled_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        entry.row,
                        entry.outcome.value,
                        entry.reason,
                        entry.message,
                        entry.reference,
                        entry.settled_by,
                        entry.evidence,
                        entry.at,
                    ),
                )
            case Held():
                execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?)", (entry.row, entry.reason, entry.message))
            case Event():
                execute(
                    "INSERT INTO event (at, name, detail) VALUES (?, ?, ?)",
                    (entry.at, entry.name, _encode(entry.detail).decode()),
                )

    def meta(self) -> dict[str, str]:
        """What the journal was made for: `run_id`, `plan_sha256`, `open`."""
        return dict(self._connection.execute("SELECT key, value FROM meta").fetchall())

    def attempts(self, batches: tuple[int, int] | None = None) -> Iterator[Attempt]:
        """Attempts with their answers, in the order sent; `batches` bounds the batch numbers, both included."""
        low, high = batches or (0, 2**62)
        cursor = self._connection.execute(
            "SELECT intent.attempt, batch, rows, sent_at, answered_at, void, results, http_status, request_id"
            " FROM intent LEFT JOIN answer USING (attempt) WHERE batch BETWEEN ? AND ? ORDER BY intent.attempt",
            (low, high),
        )
        for attempt, batch, rows, sent_at, answered_at, void, results, status, request_id in cursor:
            yield Attempt(
                attempt,
                batch,
                _decode_rows(rows),
                sent_at,
                answered_at,
                void,
                _decode_results(results) if results is not None else None,
                status or 0,
                request_id or "",
            )

    def marks(self, rows: int) -> bytearray:
        """
        One byte for each of the run's rows: `NEVER_SENT`, `ONLY_VOID` (every attempt proven not applied), or `SENT`.

        Raises:
            StateRefused: The journal names a row that the run does not have.
        """
        marks = bytearray(rows)
        for attempt in self.attempts():
            mark = ONLY_VOID if attempt.void is not None else SENT
            try:
                for row in attempt.rows:
                    marks[row] = max(marks[row], mark)
            except IndexError as trouble:
                raise StateRefused(f"{self.path} names rows that the run does not have") from trouble
        return marks

    def body(self, attempt: int) -> bytes | None:
        """The raw answer kept for an attempt."""
        found = self._connection.execute("SELECT body FROM answer WHERE attempt = ?", (attempt,)).fetchone()
        return found[0] if found else None

    def settlements(self) -> list[Settlement]:
        """Everything found out afterwards, in order; a later one for the same row replaces the earlier."""
        cursor = self._connection.execute(
            "SELECT row, outcome, reason, message, reference, settled_by, evidence, settled_at"
            " FROM settlement ORDER BY id"
        )
        return [Settlement(row, Outcome(outcome), *rest) for row, outcome, *rest in cursor]

    def held(self) -> list[Held]:
        """The rows that left their batches at a resume."""
        return [
            Held(*found) for found in self._connection.execute("SELECT row, reason, message FROM held ORDER BY row")
        ]

    def events(self) -> list[Event]:
        """The run's story, in order."""
        cursor = self._connection.execute("SELECT name, at, detail FROM event ORDER BY id")
        return [Event(name, at, msgspec.json.decode(detail)) for name, at, detail in cursor]

    def requests_and_attempts(self) -> tuple[int, int]:
        """Batches that were sent at least once, and sendings."""
        return (
            self._one("SELECT count(DISTINCT batch) FROM intent"),
            self._one("SELECT count(*) FROM intent"),
        )

    def close(self) -> None:
        """Close a journal that was open for writing: all of it is in the one file afterwards."""
        try:
            with self._connection:
                self._connection.execute("UPDATE meta SET value = '0' WHERE key = 'open'")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as trouble:
            raise _refused(self.path, trouble) from trouble
        finally:
            self._connection.close()
        sync_folder(self.path.parent)

    def leave(self) -> None:
        """Let go of a journal that was only looked at, or that must stay marked as open."""
        self._connection.close()

    def _one(self, query: str) -> int:
        value: int = self._connection.execute(query).fetchone()[0]
        return value


def _connect(path: Path) -> sqlite3.Connection:
    # autocommit off is sqlite3's own default: `with connection` is one transaction.
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _connect_reading(path: Path) -> sqlite3.Connection:
    # A read-only connection neither checkpoints nor removes the WAL when it closes; a writing one that
    # happens to be the last would, and leave an open journal looking robbed.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, check_same_thread=False)


def _distrust(connection: sqlite3.Connection) -> str:
    """What is wrong with a database that should be a journal; empty if nothing."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "is not a journal of bulkissue"
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        return f"has format {version}, and this bulkissue knows formats up to {FORMAT}; use the newer bulkissue"
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if found == "ok" else f"is damaged: {found}"


def _refuse_lost_wal(path: Path) -> None:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as main_file_alone:
        try:
            found = main_file_alone.execute("SELECT value FROM meta WHERE key = 'open'").fetchone()
        except sqlite3.OperationalError:
            return  # not yet checkpointed at all, or not ours: the checks that follow tell
    wal = path.with_name(path.name + "-wal")
    if found == ("1",) and (not wal.exists() or wal.stat().st_size == 0):
        raise StateRefused(
            f"{path} was left open and its WAL file {wal.name} is gone: the last intents are lost",
            hint="restore the whole run folder; otherwise every row of this run may have been issued",
        )


def _columns(results: Sequence[RowResult]) -> Results:
    columns = {}
    for name in RESULT_FIELDS:
        values = [str(getattr(result, name)) for result in results]
        columns[name] = values[0] if values and values.count(values[0]) == len(values) else values
    return Results(**columns)


def _refused(path: Path, trouble: sqlite3.Error) -> StateRefused:
    return StateRefused(
        f"the journal {path} cannot be used: {trouble}",
        hint="free the disk or mend the folder's permissions, then bulkissue resume",
    )
