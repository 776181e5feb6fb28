"""
JSON lines: one object a line, as a table of text.

It must never take a value for text that the file does not hold as text or as a whole number below 2^53: booleans,
fractions, lists and objects are kept for the ledgers and name nobody. A line that is no object is a rejected row.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from bulkissue import files
from bulkissue.errors import InputRefused
from bulkissue.files import room_for
from bulkissue.input.column_mapping import kept_names
from bulkissue.input.tables import OWN_MESSAGE, OWN_REASON, Table, numbered, text_or_null

_ROWS = 100_000  # rows held at once
_LONGEST_LINE = 16 << 20  # bytes
_EXACT_BELOW = 2**53  # beyond it, most programs that write JSON round a number
_MOST_NAMES = 10_000


class _Twice(ValueError):
    """An object names a key twice."""


def read_json_lines(path: Path, name: str, folder: Path) -> Table:
    """
    A file of JSON objects as text. Blank lines are no rows; columns stand in the order in which they first appear.

    Args:
        path: The file, UTF-8.
        name: What it is called in messages.
        folder: A private folder for what has to be written in between.

    Raises:
        InputRefused: It is empty, not UTF-8, a line is longer than 16 MiB, or its keys will not do as column names.
    """
    lines = _lines(path, name)
    pieces: list[Path] = []
    names: dict[str, None] = {}
    start = len(list(folder.iterdir()))
    while batch := list(islice(lines, _ROWS)):
        frame = _frame(batch, names, name)
        piece = folder / f"{start + len(pieces):08}.parquet"
        with room_for(piece):
            frame.write_parquet(piece, compression="lz4", statistics=False)
        pieces.append(piece)
    if not names:
        raise InputRefused(f"{name} has no JSON object", hint='each line must be an object such as {"mobile": "…"}')
    kept = kept_names(list(names), name)
    marks = {column: f"_bi_doubtful_{place}" for place, column in enumerate(kept)}
    rows = pl.concat([pl.scan_parquet(piece, glob=False) for piece in pieces], how="diagonal")
    cells = [text_or_null(pl.col(f"v{at}")).alias(one) for at, one in enumerate(kept)]
    causes = [pl.col(f"c{at}").alias(mark) for at, mark in enumerate(marks.values())]
    return Table(
        names=kept,
        rows=numbered(rows.select(*cells, OWN_REASON, OWN_MESSAGE, *causes)),
        sha256=files.sha256(path),
        encoding="utf-8",
        doubtful=marks,
    )


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise InputRefused(f"{name}: line {number} is longer than {_LONGEST_LINE >> 20} MiB")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as trouble:
                raise InputRefused(f"{name}: line {number} is not UTF-8", hint="JSON is UTF-8") from trouble
            if text.strip():
                yield number, text


def _frame(batch: list[tuple[int, str]], names: dict[str, None], name: str) -> pl.DataFrame:
    """
    A batch as columns: `v0`, `c0`, … (String: a cell, and why it is not known as written) for each name so far, and
    `OWN_REASON` and `OWN_MESSAGE`.
    """
    objects: list[dict[str, Any]] = []
    messages: list[str | None] = []
    for number, text in batch:
        found, trouble = _object(text)
        objects.append(found)
        messages.append(f"line {number} {trouble}" if trouble else None)
        names.update(dict.fromkeys(found))
    if len(names) > _MOST_NAMES:
        raise InputRefused(f"{name} has objects with more than {_MOST_NAMES} different keys")
    columns: dict[str, list[str | None]] = {}
    for at, key in enumerate(names):
        cells = [_cell(found.get(key)) for found in objects]
        columns[f"v{at}"] = [value for value, _ in cells]
        columns[f"c{at}"] = [cause for _, cause in cells]
    columns[OWN_REASON] = ["validate.unreadable_value" if message else None for message in messages]
    columns[OWN_MESSAGE] = messages
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String()))


def _object(text: str) -> tuple[dict[str, Any], str]:
    """The object of a line, or none and what is wrong with it."""
    try:
        found = json.loads(text, object_pairs_hook=_each_once)
    except _Twice:
        return {}, "names a key twice"
    except (ValueError, RecursionError):
        return {}, "is no JSON"
    return (found, "") if isinstance(found, dict) else ({}, "is no JSON object")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _cell(value: Any) -> tuple[str | None, str | None]:
    """A value as text, and why it is not known as written."""
    if value is None or isinstance(value, str):
        return value, None
    if isinstance(value, bool):
        return json.dumps(value), "is a boolean"
    if isinstance(value, int):
        return str(value), None if abs(value) < _EXACT_BELOW else "holds a number beyond 2^53, which may be rounded"
    if isinstance(value, float):
        return json.dumps(value), "holds a number with a fraction or an exponent"
    return json.dumps(value, ensure_ascii=False), "is a list or an object"
