"""
The file under a journal: how it is opened, and what it gives away before anything is opened for writing.

It must never take a main file for whole whose WAL is gone, nor change what it looks at.
"""

import os
import shutil
import sqlite3
import struct
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from bulkissue.errors import StateRefused

#: "bulk" in ASCII: what SQLite files of ours carry in their header.
APPLICATION_ID = 0x62756C6B
FORMAT = 1

RESTORE = "restore the whole run folder from a copy"
_PATIENCE_SECONDS = 30
#: How often, and how far apart, a journal is looked at that seems to have lost its WAL.
_LOOKS, _LOOK_SECONDS = 5, 0.02


def wal_of(path: Path) -> Path:
    """The WAL beside a journal."""
    return path.with_name(path.name + "-wal")


def _index(path: Path) -> Path:
    return path.with_name(path.name + "-shm")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection; `mode` as SQLite's URIs have it: `ro`, `rw` or `rwc`."""
    # autocommit off is sqlite3's own default: `with connection` is one transaction.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_PATIENCE_SECONDS, check_same_thread=False)


def use_wal(connection: sqlite3.Connection) -> None:
    """Turn WAL mode on; raises `sqlite3.OperationalError` where the file system does not allow it."""
    if (mode := connection.execute("PRAGMA journal_mode = WAL").fetchone()) != ("wal",):
        raise sqlite3.OperationalError(f"this file system allows only journal_mode {mode[0]}")


def checkpoint(writer: sqlite3.Connection, how: str) -> bool:
    """Bring what is in the WAL into the main file; False where a reader stands in the way."""
    busy, frames, brought = writer.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return not busy and frames == brought


def has_no_index(path: Path) -> bool:
    """Whether SQLite lacks the index it wants beside a WAL database, and may not make one."""
    return not _index(path).exists() and not os.access(path.parent, os.W_OK, effective_ids=True)


def copied(path: Path, held: ExitStack) -> Path:
    """A copy of a journal and its WAL, in a private folder that goes with `held`."""
    copy = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bulkissue-"))) / path.name
    shutil.copyfile(path, copy)
    with suppress(FileNotFoundError):
        shutil.copyfile(wal_of(path), wal_of(copy))
    if _index(path).exists():  # its writer may have changed what was copied
        raise StateRefused(f"{path} was opened by another process just now", hint="look again")
    return copy


def refuse_foreign(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse what is no journal of ours, or one of a newer format."""
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise StateRefused(f"{path} is not a journal of bulkissue", hint=RESTORE)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > FORMAT:
        raise StateRefused(
            f"{path} has format {version}, and this bulkissue knows formats up to {FORMAT}",
            hint="use the newer bulkissue",
        )


def refuse_other(path: Path, connection: sqlite3.Connection, made_for: dict[str, str]) -> dict[str, str]:
    """What the journal was made for, which has to be this."""
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    for key, value in made_for.items():
        if meta.get(key) != value:
            raise StateRefused(f"{path} is another run's journal: its {key} differs")
    return meta


def refuse_main_file(path: Path, made_for: dict[str, str]) -> None:
    """Refuse what the main file alone gives away. SQLite, asked to open an empty one, throws its WAL away."""
    for again in range(_LOOKS, 0, -1):
        if not _is_left_open(path, made_for):
            return
        # A writer may have closed it, opened it and closed it again between the looks; what is lost stays lost.
        time.sleep(_LOOK_SECONDS if again > 1 else 0)
    raise StateRefused(
        f"{path} was left open and its WAL file {wal_of(path).name} is gone: the last intents are lost",
        hint="restore the whole run folder; otherwise every row of this run may have been issued",
    )


def _is_left_open(path: Path, made_for: dict[str, str]) -> bool:
    """Whether the main file says that it is open, and no WAL is beside it."""
    wal = wal_of(path)
    # Looked at before and after the mark, as a writer may begin or close at this moment.
    there = _is_wal(wal)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as main_file_alone:
            refuse_foreign(path, main_file_alone)
            (page_size,) = main_file_alone.execute("PRAGMA page_size").fetchone()
            if path.stat().st_size % page_size:  # SQLite fills a page up with zeros
                raise StateRefused(f"{path} is damaged: it ends in the middle of a page", hint=RESTORE)
            mark = refuse_other(path, main_file_alone, made_for).get("open")
    except sqlite3.DatabaseError:
        return False  # killed in the middle of a checkpoint, it is whole only together with its WAL; or never
    return mark == "1" and not there and not _is_wal(wal)


def _is_wal(path: Path) -> bool:
    """Whether this is a WAL with a header and room for a frame; SQLite takes any other one for empty."""
    try:
        with path.open("rb") as file:
            header, size = file.read(32), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    if len(header) < 32:
        return False
    magic, _, page_size, _, _, _, *checksum = struct.unpack(">8I", header)
    first = second = 0
    for one, other in struct.iter_unpack(">2I" if magic & 1 else "<2I", header[:24]):
        first = first + one + second & 0xFFFFFFFF
        second = second + other + first & 0xFFFFFFFF
    return magic | 1 == 0x377F0683 and checksum == [first, second] and size >= 32 + 24 + page_size


def refused(path: Path, trouble: sqlite3.Error | OSError) -> StateRefused:
    """What is raised where SQLite or the disk refuses."""
    return StateRefused(
        f"the journal {path} cannot be used: {trouble}",
        hint="free the disk or mend the folder's permissions, then bulkissue resume",
    )
