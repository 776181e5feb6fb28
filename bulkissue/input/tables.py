"""
Tables as text: what every input file becomes, whatever its kind; and the way there for Parquet.

It must never let a number become other text than what it means: what a float cannot hold exactly is marked,
not rounded.
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bulkissue import files
from bulkissue.errors import InputRefused
from bulkissue.input.column_mapping import kept_names

#: Columns every table has behind the file's own: the row's number from 1, and why it cannot be read (else null).
OWN_ROW = "_bi_own_row"
OWN_REASON = "_bi_own_reason"
OWN_MESSAGE = "_bi_own_message"

#: Why a number that its cell cannot hold exactly is not known as written.
INEXACT = "holds a number with more digits than it can hold exactly"

# Up to here a float of this width holds every whole number exactly.
_EXACT_BELOW: dict[pl.DataType, int] = {pl.Float64(): 2**53, pl.Float32(): 2**24, pl.Float16(): 2**11}


@dataclass(frozen=True, slots=True)
class Table:
    """
    One input file, ready to be read.

    Attributes:
        names: Its columns, as `headers.kept_names` gives them.
        rows: `names`, all String, null where empty; then `OWN_ROW` (UInt64), `OWN_REASON` and `OWN_MESSAGE` (String),
            and the columns that `doubtful` names (String).
        sha256: Of the bytes that were read.
        encoding: Of a text file, else empty.
        delimiter: Of a text file, else empty.
        guessed: Whether the encoding was guessed from the bytes.
        notes: What was assumed, for the user.
        doubtful: For some columns: the column that says why a row's cell is not known as it was written, in words
            that end "the cell in column X …"; null where it is.
        left_out: Columns that cannot be text, with their type.
    """

    names: list[str]
    rows: pl.LazyFrame
    sha256: str
    encoding: str = ""
    delimiter: str = ""
    guessed: bool = False
    notes: tuple[str, ...] = ()
    doubtful: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read_parquet(path: Path, name: str) -> Table:
    """
    A Parquet file as text: whole numbers and decimals exactly, whole floats as whole numbers, dates as ISO 8601.

    Lists and structs are JSON. Bytes have no text of their own: such columns are left out, and a note says so.

    Raises:
        InputRefused: It is no Parquet file, or its columns' names will not do.
    """
    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = frame.collect_schema()
    except pl.exceptions.PolarsError as trouble:
        raise InputRefused(
            f"{name} is no whole Parquet file", hint="write it again, or give it the ending of what it is"
        ) from trouble
    if not schema:
        raise InputRefused(f"{name} has no columns")
    names = kept_names(list(schema), name)
    frame = frame.rename({old: _field(place) for place, old in enumerate(schema)})
    cells, doubtful, left_out = [], {}, {}
    for place, (kept, dtype) in enumerate(zip(names, schema.dtypes(), strict=True)):
        cell = pl.col(_field(place))
        text = _as_text(cell, dtype)
        if text is None:
            left_out[kept] = str(dtype)
            continue
        cells.append(text_or_null(text).alias(kept))
        if dtype in _EXACT_BELOW:
            doubtful[kept] = f"_bi_doubtful_{place}"
            large = cell.fill_nan(None).abs() >= _EXACT_BELOW[dtype]  # for polars NaN is the largest number
            cells.append(pl.when(large).then(pl.lit(INEXACT)).alias(doubtful[kept]))
        elif dtype.is_nested():
            doubtful[kept] = f"_bi_doubtful_{place}"
            cells.append(pl.when(cell.is_not_null()).then(pl.lit("holds several values")).alias(doubtful[kept]))
        elif dtype.is_temporal() or dtype == pl.Boolean():
            doubtful[kept] = f"_bi_doubtful_{place}"
            what = "is a boolean" if dtype == pl.Boolean() else "is a date or time"
            cells.append(pl.when(cell.is_not_null()).then(pl.lit(what)).alias(doubtful[kept]))
    notes = [f'"{kept}" holds {dtype} and is left out of the ledgers' for kept, dtype in left_out.items()]
    return Table(
        names=[kept for kept in names if kept not in left_out],
        rows=numbered(frame.select(cells)),
        sha256=files.sha256(path),
        notes=tuple(notes),
        doubtful=doubtful,
        left_out=left_out,
    )


def _field(place: int) -> str:
    return f"_bi_field_{place}"


def numbered_names(width: int) -> list[str]:
    """The columns' names of a file without any: `column_1`, `column_2`, …"""
    return [f"column_{place}" for place in range(1, width + 1)]


def text_or_null(cell: pl.Expr) -> pl.Expr:
    """A cell as tables hold it: null where it is empty."""
    return pl.when(cell != "").then(cell)


def numbered(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with `OWN_ROW`, and with `OWN_REASON` and `OWN_MESSAGE` where they have none, as all are readable."""
    names = rows.collect_schema().names()
    missing = [pl.lit(None, pl.String).alias(own) for own in (OWN_REASON, OWN_MESSAGE) if own not in names]
    return rows.with_row_index(OWN_ROW, 1).with_columns(pl.col(OWN_ROW).cast(pl.UInt64), *missing)


def _as_text(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """A column's cells as text; None where there is no one way to write them."""
    if dtype.is_float():
        # A whole number that is held exactly is never written with an exponent.
        return cell.fill_nan(None).cast(pl.String).str.strip_suffix(".0")
    if dtype.is_temporal():
        return cell.dt.to_string("iso:strict")
    if dtype == pl.Binary():
        return None
    if dtype.is_nested():  # as JSON
        return pl.struct(cell.alias("v")).struct.json_encode().str.strip_prefix('{"v":').str.strip_suffix("}")
    return cell.cast(pl.String)
