"""
A journal without what it says of some customers: written as a new file, which takes the old one's place.

The journal itself is never changed; see `journal`. It must never lose an attempt, an outcome or a proof: what goes is
who the customers were, and what the service said of them in its own words.
"""

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from bulkissue.errors import StateRefused
from bulkissue.outcomes import Outcome

#: The parts of a result that tell who a customer is, or may.
_PERSONAL = ("customer_id", "message")
_MASK = "…"


def write_without(
    journal: Path, out: Path, rows: Collection[int] | None, known: Mapping[int, Collection[str]], plan_sha256: str
) -> None:
    """
    Copy a settled run's journal without some of its customers; the copy is closed, and holds no freed pages.

    Args:
        journal: The journal; nobody writes it.
        out: The new file.
        rows: Places in the input, from 0, whose customers go; None for all.
        known: By row what its customer is known by; taken out of what a person or the service wrote in words.
        plan_sha256: Of the plan without them.

    Raises:
        StateRefused: The journal cannot be read, or the copy not be written.
    """
    uri = f"{journal.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(out)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("PRAGMA secure_delete = ON")
            with copy:
                _without_results(copy, rows, known)
                _without_words(copy, rows, known)
                copy.execute("UPDATE meta SET value = ? WHERE key = 'plan_sha256'", (plan_sha256,))
            copy.execute("VACUUM")
            copy.execute("PRAGMA journal_mode = WAL")  # as the journal has it
    except sqlite3.Error as trouble:
        raise StateRefused(f"the journal {journal} cannot be copied: {trouble}", hint="free the disk") from trouble
    out.chmod(0o600)


def _without_results(
    copy: sqlite3.Connection, rows: Collection[int] | None, known: Mapping[int, Collection[str]]
) -> None:
    found = copy.execute("SELECT attempt, rows, results, body FROM intent JOIN answer USING (attempt)").fetchall()
    for attempt, text, results, body in found:
        places: list[int] = msgspec.json.decode(text)
        gone = [place for place, row in enumerate(places) if rows is None or row in rows]
        if not gone:
            continue
        told = None if results is None else msgspec.json.decode(results, type=dict[str, str | list[str]])
        outcomes = (told or {}).get("outcome", "")
        if told is not None:
            for name in _PERSONAL:
                told[name] = _emptied(told.get(name, ""), gone, len(places))
        kept = None
        if body is not None and len(gone) < len(places) and Outcome.UNKNOWN in outcomes:
            # It may yet tell what the others came to.
            kept = _masked(body, [one for place in gone for one in known.get(places[place], ())])
        encoded = None if told is None else msgspec.json.encode(told).decode()
        copy.execute("UPDATE answer SET results = ?, body = ? WHERE attempt = ?", (encoded, kept, attempt))


def _masked(body: bytes, words: list[str]) -> bytes:
    for word in sorted(set(words), key=len, reverse=True):
        body = body.replace(word.encode(), _MASK.encode())
    return body


def _emptied(values: str | list[str], gone: list[int], size: int) -> str | list[str]:
    if len(gone) == size or values == "":
        return ""
    every = [values] * size if isinstance(values, str) else list(values)
    for place in gone:
        every[place] = ""
    return every


def _without_words(
    copy: sqlite3.Connection, rows: Collection[int] | None, known: Mapping[int, Collection[str]]
) -> None:
    for number, row, *told in copy.execute("SELECT id, row, message, evidence, settled_by FROM settlement").fetchall():
        if rows is None or row in rows:
            words = [_masked(text.encode(), list(known.get(row, ()))).decode() for text in told]
            copy.execute(
                "UPDATE settlement SET message = ?, evidence = ?, settled_by = ? WHERE id = ?", (*words, number)
            )
