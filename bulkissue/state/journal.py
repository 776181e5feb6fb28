"""
The journal: intents, answers and settlements of one run; the only truth about what was sent.

SQLite in WAL mode with full synchronisation, one writer. `write` returns when its entries are on the
disk; no byte of an attempt may leave before that. Nothing in it is ever changed or deleted.

While a run is open, the main file says so and the WAL beside it is never empty: a main file alone
passes SQLite's own checks and yet lacks the last intents, so an open journal without its WAL is
refused. A clean close checkpoints everything into the one file.

Nothing but a clean close may take the WAL away. SQLite itself removes it when the last connection that
can write closes, be it after a failure or at the interpreter's end, so a connection that can only read
always closes later. It also does the reading, and the checks before anything is opened for writing.
"""

import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Self

import msgspec

from bulkissue.errors import StateRefused
from bulkissue.files import replacing_path, sync_folder
from bulkissue.outcomes import Outcome, Results
from bulkissue.state.entries import (
    ONLY_VOID,
    SENT,
    Answer,
    Attempt,
    Ended,
    Entry,
    Event,
    Held,
    Intent,
    RawAttempt,
    RawResults,
    Settlement,
)
from bulkissue.state.journal_file import (
    APPLICATION_ID,
    FORMAT,
    RESTORE,
    checkpoint,
    connect,
    copied,
    has_no_index,
    refuse_foreign,
    refuse_main_file,
    refuse_other,
    refused,
    use_wal,
    wal_of,
)

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

_ATTEMPTS = (
    "SELECT intent.attempt, batch, rows, sent_at, answered_at, void, results, http_status, request_id"
    " FROM intent LEFT JOIN answer USING (attempt)"
)

_BODY_LIMIT = 256 * 1024
_encode = msgspec.json.Encoder().encode


_decode_ended = msgspec.json.Decoder(Ended).decode
_decode_results = msgspec.json.Decoder(Results).decode
_decode_raw_results = msgspec.json.Decoder(RawResults).decode
_decode_rows = msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=0)]]).decode


class Journal:
    """
    One run's journal.

    Made by `create`, `reopen` or `look`; usable from one thread at a time.
    """

    def __init__(self, path: Path, reader: sqlite3.Connection, held: ExitStack) -> None:
        self.path = path
        self._reader = reader
        self._writer = reader
        self._held = held
        # Also where nobody says `leave`: at an exception, or at the interpreter's end.
        self._let_go = weakref.finalize(self, held.close)
        self.next_attempt = 1 + self._one("SELECT coalesce(max(attempt), 0) FROM intent")

    @classmethod
    def create(cls, path: Path, *, run_id: str, plan_sha256: str) -> Self:
        """
        A new journal, open for writing.

        Raises:
            StateRefused: There is one already, or a WAL of one, or it cannot be written.
        """
        try:
            for found in (path, wal_of(path)):  # SQLite would read a stray WAL into whatever file it stands beside
                if found.exists():
                    raise StateRefused(f"{found} exists already", hint="bulkissue resume goes on with a run")
            # Whole or not there at all: a crash in the middle leaves a run that has sent nothing.
            with replacing_path(path) as partial, closing(sqlite3.connect(partial)) as connection:
                connection.executescript(
                    f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};BEGIN; {_SCHEMA} COMMIT;"
                )
                with connection:
                    connection.executemany(
                        "INSERT INTO meta VALUES (?, ?)",
                        [("run_id", run_id), ("plan_sha256", plan_sha256), ("open", "0"), ("commits", "0")],
                    )
                use_wal(connection)  # last: until here every commit goes into the file itself
        except (sqlite3.Error, OSError) as trouble:
            raise refused(path, trouble) from trouble
        return cls.reopen(path, run_id=run_id, plan_sha256=plan_sha256)

    @classmethod
    def reopen(cls, path: Path, *, run_id: str, plan_sha256: str) -> Self:
        """
        This run's journal, open for writing.

        Raises:
            StateRefused: It is missing, torn, of another run or plan, of a newer format, or was left
                open and its WAL is gone. It stays as it was.
        """
        journal = cls._trusted(path, run_id, plan_sha256)
        try:
            journal._begin()  # noqa: SLF001 - its own class
        except BaseException:
            journal.leave()
            raise
        return journal

    @classmethod
    def look(cls, path: Path, *, run_id: str, plan_sha256: str | None = None) -> Self:
        """
        This run's journal for reading only, also while another process writes it. Raises as `reopen` does.

        Changes nothing in the run's files; SQLite may put its index and an empty WAL beside them.
        """
        return cls._trusted(path, run_id, plan_sha256, or_copy=True)

    @classmethod
    def _trusted(cls, path: Path, run_id: str, plan_sha256: str | None, *, or_copy: bool = False) -> Self:
        with ExitStack() as held:
            try:
                if not path.exists():
                    raise StateRefused(f"{path} is missing", hint="restore the run folder as it was")
                made_for = {"run_id": run_id} | ({} if plan_sha256 is None else {"plan_sha256": plan_sha256})
                refuse_main_file(path, made_for)
                reader = connect(copied(path, held) if or_copy and has_no_index(path) else path, "ro")
                held.callback(reader.close)
                refuse_foreign(path, reader)
                if (found := reader.execute("PRAGMA integrity_check(1)").fetchone()) != ("ok",):
                    raise StateRefused(f"{path} is damaged: {found[0]}", hint=RESTORE)
                refuse_other(path, reader, made_for)
                return cls(path, reader, held.pop_all())
            except (sqlite3.Error, OSError) as trouble:
                raise refused(path, trouble) from trouble

    def _begin(self) -> None:
        """Say in the main file that the run is open for writing; from here the WAL beside it is never empty."""
        try:
            self._writer = connect(self.path, "rw")
            self._held.callback(self._writer.close)  # the last to come is the first to go
            use_wal(self._writer)
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute("PRAGMA foreign_keys = ON")  # no answer without its intent
            with self._writer:
                self._writer.execute("UPDATE meta SET value = '1' WHERE key = 'open'")
            self.meta()  # from a read on, SQLite counts the reader among those that have the WAL
            # FULL leaves the frames in the WAL file; TRUNCATE would leave it empty, as a lost one is.
            if not checkpoint(self._writer, "FULL"):
                raise StateRefused(f"{self.path} is being read by another process", hint="wait for it to end")
            sync_folder(self.path.parent)
        except (sqlite3.Error, OSError) as trouble:
            raise refused(self.path, trouble) from trouble

    def write(self, entries: Iterable[Entry]) -> None:
        """
        Put entries on the disk, all or none; durable when this returns.

        Raises:
            StateRefused: They could not be written. Nothing may be sent after that.
        """
        try:
            with self._writer:
                for entry in entries:
                    self._insert(entry)
                # SQLite reads whatever WAL stands beside the file. With this every WAL holds the page that names
                # its run, so that another run's gives itself away.
                self._writer.execute("UPDATE meta SET value = value + 1 WHERE key = 'commits'")
        except sqlite3.Error as trouble:
            raise refused(self.path, trouble) from trouble

    def _insert(self, entry: Entry) -> None:
        execute = self._writer.execute
        match entry:
            case Intent():
                execute(
                    "INSERT INTO intent VALUES (?, ?, ?, ?)",
                    (entry.attempt, entry.batch, _encode(entry.rows).decode(), entry.at),
                )
            case Answer():
                body = entry.body[:_BODY_LIMIT] if entry.body is not None else None
                results = None if entry.results is None else _encode(entry.results).decode()
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
                execute("INSERT OR IGNORE INTO held VALUES (?, ?, ?)", (entry.row, entry.reason, entry.message))
            case Event():
                execute(
                    "INSERT INTO event (at, name, detail) VALUES (?, ?, ?)",
                    (entry.at, entry.name, _encode(entry.detail).decode()),
                )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        # What the checks at the opening cannot see: a flipped bit inside a value, a disk that has died since.
        try:
            yield
        except (sqlite3.Error, msgspec.DecodeError, ValueError) as trouble:
            raise StateRefused(f"the journal {self.path} cannot be read: {trouble}", hint=RESTORE) from trouble

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """All that is read inside the block is of one moment, also where another process writes meanwhile."""
        with self._reading():
            self._reader.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):  # the journal was let go meanwhile, and the moment with it
                self._reader.execute("ROLLBACK")

    def meta(self) -> dict[str, str]:
        """What the journal was made for, and how often it was written: `run_id`, `plan_sha256`, `open`, `commits`."""
        with self._reading():
            return dict(self._reader.execute("SELECT key, value FROM meta").fetchall())

    def attempts(self, batches: tuple[int, int] | None = None) -> Iterator[Attempt]:
        """Attempts with their answers, in the order sent; `batches` bounds the batch numbers, both included."""
        with self._reading():
            where = " WHERE batch BETWEEN ? AND ?" if batches else ""
            cursor = self._reader.execute(f"{_ATTEMPTS}{where} ORDER BY intent.attempt", batches or ())
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

    def raw_attempts(self, batches: tuple[int, int]) -> Iterator[RawAttempt]:
        """As `attempts`, in no order, with rows and results as they stand in the journal: for tables."""
        with self._reading():
            cursor = self._reader.execute(
                "SELECT intent.attempt, rows, sent_at, answered_at, void, results, nullif(http_status, 0),"
                " coalesce(request_id, '') FROM intent LEFT JOIN answer USING (attempt) WHERE batch BETWEEN ? AND ?",
                batches,
            )
            for attempt, rows, sent_at, answered_at, void, results, status, request_id in cursor:
                raw = None if results is None else _decode_raw_results(results)
                yield RawAttempt(attempt, rows, sent_at, answered_at, void, raw, status, request_id)

    def timings(self) -> Iterator[tuple[int, int, int, int | None, str | None, int]]:
        """
        Every attempt without its rows and results, in the order sent, for what only counts and measures.

        Yields:
            Its batch, how many rows, when sent, when answered (None where there is no answer), why void (None where it
            is not), HTTP status (0 where no answer came).
        """
        with self._reading():
            yield from self._reader.execute(
                "SELECT batch, json_array_length(rows), sent_at, answered_at, void, coalesce(http_status, 0)"
                " FROM intent LEFT JOIN answer USING (attempt) ORDER BY intent.attempt"
            )

    def rows_sent(self) -> int:
        """How many rows all attempts name, one that was sent twice counted twice."""
        return self._one("SELECT coalesce(sum(json_array_length(rows)), 0) FROM intent")

    def last_answer(self) -> int:
        """When the last answer came, in epoch milliseconds; 0 where none came."""
        with self._reading():
            return self._one("SELECT coalesce(max(answered_at), 0) FROM answer")

    def outcomes(self) -> Iterator[tuple[int, int, int | None, str | None, Ended | None]]:
        """
        Every attempt with its rows' outcomes and reasons and nothing else of them, in no order, for what only counts.

        Yields:
            How many rows, when sent, when answered, why void, and how they ended (None where void, or without an
            answer).
        """
        with self._reading():
            cursor = self._reader.execute(
                "SELECT json_array_length(rows), sent_at, answered_at, void, results"
                " FROM intent LEFT JOIN answer USING (attempt)"
            )
            for rows, sent_at, answered_at, void, results in cursor:
                yield rows, sent_at, answered_at, void, None if results is None else _decode_ended(results)

    def marks(self, rows: int) -> bytearray:
        """
        One byte for each of the run's rows: `NEVER_SENT`, `ONLY_VOID` (every attempt proven not applied), or `SENT`.

        Raises:
            StateRefused: The journal names a row that the run does not have.
        """
        marks = bytearray(rows)
        query = "SELECT rows FROM intent LEFT JOIN answer USING (attempt) WHERE void IS"
        # A row's attempts are void but for one at most; that one comes after them, and has the last word.
        for which, mark in (("NOT NULL", ONLY_VOID), ("NULL", SENT)):
            with self._reading():
                try:
                    for (text,) in self._reader.execute(f"{query} {which}"):
                        for row in _decode_rows(text):
                            marks[row] = mark
                except IndexError as trouble:
                    raise StateRefused(f"{self.path} names rows that the run does not have") from trouble
        return marks

    def body(self, attempt: int) -> bytes | None:
        """The raw answer kept for an attempt."""
        with self._reading():
            found = self._reader.execute("SELECT body FROM answer WHERE attempt = ?", (attempt,)).fetchone()
        return found[0] if found else None

    def settlements(self) -> list[Settlement]:
        """Everything found out afterwards, in order; a later one for the same row replaces the earlier."""
        with self._reading():
            cursor = self._reader.execute(
                "SELECT row, outcome, reason, message, reference, settled_by, evidence, settled_at"
                " FROM settlement ORDER BY id"
            )
            return [Settlement(row, Outcome(outcome), *rest) for row, outcome, *rest in cursor]

    def held(self) -> list[Held]:
        """The rows that left their batches at a resume."""
        with self._reading():
            found = self._reader.execute("SELECT row, reason, message FROM held ORDER BY row")
            return [Held(*values) for values in found]

    def events(self) -> list[Event]:
        """The run's story, in order."""
        with self._reading():
            cursor = self._reader.execute("SELECT name, at, detail FROM event ORDER BY id")
            return [Event(name, at, msgspec.json.decode(detail)) for name, at, detail in cursor]

    def requests_and_attempts(self) -> tuple[int, int]:
        """Batches that were sent at least once, and sendings."""
        with self._reading():
            return (
                self._one("SELECT count(DISTINCT batch) FROM intent"),
                self._one("SELECT count(*) FROM intent"),
            )

    def close(self) -> None:
        """
        Close a journal that was open for writing: all of it is in the one file afterwards.

        Unless someone reads it for longer than SQLite waits. Then it stays as a crash would leave it:
        marked as open, with its WAL, and whole.
        """
        try:
            # The entries first: the mark must not come into the file before them.
            if checkpoint(self._writer, "FULL"):
                with self._writer:
                    self._writer.execute("UPDATE meta SET value = '0' WHERE key = 'open'")
                checkpoint(self._writer, "TRUNCATE")
                self._reader.close()  # so that the writer is the last, and takes the empty WAL away
            self.leave()
            sync_folder(self.path.parent)
        except (sqlite3.Error, OSError) as trouble:
            raise refused(self.path, trouble) from trouble
        finally:
            self.leave()

    def leave(self) -> None:
        """Let go of a journal that was only looked at, or that must stay marked as open."""
        self._let_go()

    def _one(self, query: str) -> int:
        value: int = self._reader.execute(query).fetchone()[0]
        return value
