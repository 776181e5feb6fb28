"""
Attempts as tables: what the journal says of some batches, a line for each attempt and a line for each row sent.

Most answers say the same of all their rows but for a proof. What is the same stands once, with the attempt; what
differs is split from the journal's own text by polars. It must never give a row another row's answer.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
import polars as pl

from bulkissue.errors import StateRefused
from bulkissue.outcomes import RESULT_FIELDS
from bulkissue.state.protocols import RunJournal

#: A line for each attempt. Results are null where the attempt has none, and in fields that the rows have.
SCHEMA = pl.Schema(
    {
        "sent_at": pl.Int64(),
        "answered_at": pl.Int64(),
        "void": pl.String(),
        "http_status": pl.Int64(),
        "request_id": pl.String(),
        **dict.fromkeys(RESULT_FIELDS, pl.String()),
    }
)

_decode = msgspec.json.Decoder(str).decode
_decode_list = msgspec.json.Decoder(list[str]).decode


def read(journal: RunJournal, stretches: Iterable[tuple[int, int]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """
    The attempts on some batches.

    Args:
        journal: The run's journal.
        stretches: First and last number of batches that follow each other.

    Returns:
        The attempts, columns of `SCHEMA`; and their rows, as often and in the order they were sent: `row` (UInt32),
        `attempt` (UInt32, a line of the first table), and those results that are not alike for all rows of an attempt.

    Raises:
        StateRefused: The journal cannot be read, or an answer has not one result for each of its rows.
    """
    # In the order sent; sorted here, as SQLite would move all that text about.
    found = sorted(chain.from_iterable(journal.raw_attempts(stretch) for stretch in stretches))
    sizes = [attempt.rows.count(",") + 1 for attempt in found]
    columns = {name: [getattr(attempt, name) for attempt in found] for name in SCHEMA if name not in RESULT_FIELDS}
    told = pl.Series([attempt.results is not None for attempt in found], dtype=pl.Boolean)
    try:
        places = _split_text(",".join([attempt.rows[1:-1] for attempt in found]), ",", sizes)
        rows = pl.DataFrame(
            [
                places.cast(pl.UInt32).alias("row"),
                _repeated(pl.Series("attempt", range(len(found)), pl.UInt32), sizes),
            ]
        )
        for name in RESULT_FIELDS:
            texts = [b'""' if attempt.results is None else bytes(getattr(attempt.results, name)) for attempt in found]
            if any(text.startswith(b"[") for text in texts):
                columns[name] = [None] * len(found)
                cells = _split(texts, sizes)
                if not told.all():
                    cells = pl.select(pl.when(told.gather(rows["attempt"])).then(cells)).to_series()
                rows.insert_column(rows.width, cells.alias(name))
            else:
                columns[name] = [_decode(text) if known else None for text, known in zip(texts, told, strict=True)]
    except (msgspec.DecodeError, pl.exceptions.ShapeError, pl.exceptions.InvalidOperationError) as trouble:
        raise StateRefused(
            f"the journal {journal.path} cannot be read: an attempt has not one result for each of its rows",
            hint="restore the whole run folder from a copy",
        ) from trouble
    return pl.DataFrame(columns, schema=SCHEMA), rows


def _repeated(values: pl.Series, times: Sequence[int]) -> pl.Series:
    return (
        values.to_frame()
        .select(pl.all().repeat_by(pl.Series(times, dtype=pl.UInt32)))
        .to_series()
        .explode(empty_as_null=False)
    )


def _split(texts: Sequence[bytes], sizes: Sequence[int]) -> pl.Series:
    """One text for each row, from a JSON list or a JSON text for each attempt."""
    lists = [
        text if text.startswith(b"[") else b"[" + b",".join([text] * size) + b"]"
        for text, size in zip(texts, sizes, strict=True)
    ]
    if any(b"\\" in text for text in texts):
        cells = [_decode_list(text) for text in lists]
        _require([len(found) for found in cells], sizes)
        return pl.Series(list(chain.from_iterable(cells)), dtype=pl.String)
    # Without a backslash no cell holds a quote, so behind the first quote these three bytes end a cell and begin the
    # next. With the first one they may be a cell: a comma.
    _require([text[2:].count(b'","') + 1 for text in lists], sizes)
    return _split_text(b",".join([text[1:-1] for text in lists])[1:-1].decode(), '","', sizes)


def _require(found: Sequence[int], sizes: Sequence[int]) -> None:
    if list(found) != list(sizes):
        raise pl.exceptions.ShapeError


def _split_text(text: str, between: str, sizes: Sequence[int]) -> pl.Series:
    return pl.Series([text] if sizes else [], dtype=pl.String).str.split(between).explode()
