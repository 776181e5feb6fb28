"""
Tables as text: what every input file becomes, whatever its kind; and the way there for Parquet and workbooks.

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

# Up to here a float of this width holds every whole number exactly.
_EXACT_BELOW: dict[pl.DataType, int] = {pl.Float64(): 2**53, pl.Float32(): 2**24, pl.Float16(): 2**11}
_LONG_NUMBER = r"^-?[0-9]{16,}$"  # Excel keeps 15 digits of a number


@dataclass(frozen=True, slots=True)
class Table:
    """
    One input file, ready to be read.

    Attributes:
        names: Its columns, as `headers.kept_names` gives them.
        rows: `names`, all String, null where empty; then `OWN_ROW` (UInt64), `OWN_REASON` and `OWN_MESSAGE` (String),
            and the columns that `inexact` names (Boolean).
        sha256: Of the bytes that were read.
        encoding: Of a text file, else empty.
        delimiter: Of a text file, else empty.
        notes: What was assumed, for the user.
        inexact: For columns of floats: the column that says in which rows the number cannot be exact.
        left_out: Columns that cannot be text, with their type.
    """

    names: list[str]
    rows: pl.LazyFrame
    sha256: str
    encoding: str = ""
    delimiter: str = ""
    notes: tuple[str, ...] = ()
    inexact: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read_parquet(path: Path, name: str) -> Table:
    """
    A Parquet file as text: whole numbers and decimals exactly, whole floats as whole numbers, dates as ISO 8601.

    Lists, structs and bytes have no text of their own: such columns are left out, and a note says so.

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
    cells, inexact, left_out = [], {}, {}
    for place, (kept, dtype) in enumerate(zip(names, schema.dtypes(), strict=True)):
        cell = pl.col(_field(place))
        text = _as_text(cell, dtype)
        if text is None:
            left_out[kept] = str(dtype)
            continue
        cells.append(pl.when(text != "").then(text).alias(kept))
        if dtype in _EXACT_BELOW:
            inexact[kept] = f"_bi_inexact_{place}"
            large = cell.fill_nan(None).abs() >= _EXACT_BELOW[dtype]  # for polars NaN is the largest number
            cells.append(large.fill_null(value=False).alias(inexact[kept]))
    notes = [f'"{kept}" holds {dtype} and is left out of the ledgers' for kept, dtype in left_out.items()]
    return Table(
        names=[kept for kept in names if kept not in left_out],
        rows=_numbered(frame.select(cells)),
        sha256=files.sha256(path),
        notes=tuple(notes),
        inexact=inexact,
        left_out=left_out,
    )


def read_workbook(path: Path, name: str) -> Table:
    """
    The first visible sheet with data of a workbook, as text; wholly blank rows are no rows.

    The whole sheet is held in memory; Excel ends it at 1,048,576 rows.

    Raises:
        InputRefused: It is no workbook, has no data, its columns' names will not do, or fastexcel is not installed.
    """
    sha256 = files.sha256(path)
    cells, numbers, notes = _sheet(path, name)
    rounded = {
        column: (numbers[column].is_not_null() & cells[column].str.contains(_LONG_NUMBER)).fill_null(value=False)
        for column in cells.columns
        if cells[column].str.contains(_LONG_NUMBER).any()
    }
    marks = {column: f"_bi_inexact_{place}" for place, column in enumerate(rounded)}
    filled = cells.with_columns(mark.alias(marks[column]) for column, mark in rounded.items()).filter(
        pl.any_horizontal((pl.col(column) != "").fill_null(value=False) for column in cells.columns)
    )
    if filled.is_empty():
        raise InputRefused(f"{name} has no sheet with data")
    header, rows = filled.row(0, named=True), filled.slice(1)
    # A formatted but empty column at the side is no column.
    used = [column for column in cells.columns if header[column] or rows[column].null_count() < rows.height]
    kept = dict(zip(used, kept_names([header[column] for column in used], name), strict=True))
    texts = [pl.when(pl.col(column) != "").then(pl.col(column)).alias(given) for column, given in kept.items()]
    return Table(
        names=list(kept.values()),
        rows=_numbered(rows.lazy().select(*texts, *marks.values())),
        sha256=sha256,
        notes=notes,
        inexact={kept[column]: mark for column, mark in marks.items()},
    )


def _sheet(path: Path, name: str) -> tuple[pl.DataFrame, pl.DataFrame, tuple[str, ...]]:
    """The sheet's cells as text, from its first row; the same read as booleans; and a note where there was a choice."""
    try:
        import fastexcel
    except ImportError as trouble:
        raise InputRefused(
            f"{name} is a workbook, and the part that reads workbooks is not installed",
            hint="pip install 'bulkissue[xlsx]', or save the sheet as CSV",
        ) from trouble
    try:
        book = fastexcel.read_excel(path)
        sheets = [book.load_sheet(sheet, header_row=None, n_rows=1, dtypes="string") for sheet in book.sheet_names]
        filled = [sheet.name for sheet in sheets if sheet.visible == "visible" and sheet.height]
        if not filled:
            raise InputRefused(f"{name} has no sheet with data")
        # skip_rows=0 keeps blank rows on top, so that both readings have the same rows.
        cells = book.load_sheet(filled[0], header_row=None, skip_rows=0, dtypes="string").to_polars()
        # Read as booleans, a number is true or false and a text is null; nothing else tells them apart.
        numbers = book.load_sheet(filled[0], header_row=None, skip_rows=0, dtypes="boolean").to_polars()
    except fastexcel.FastExcelError as trouble:
        raise InputRefused(
            f"{name} cannot be read as a workbook",
            hint="save it again as .xlsx without a password, or save the sheet as CSV",
        ) from trouble
    others = len(filled) - 1
    notes = (f'the sheet "{filled[0]}" is taken, {others} more with data are not',) if others else ()
    return cells, numbers, notes


def _field(place: int) -> str:
    return f"_bi_field_{place}"


def _numbered(cells: pl.LazyFrame) -> pl.LazyFrame:
    """A table without unreadable rows."""
    return cells.with_row_index(OWN_ROW, 1).with_columns(
        pl.col(OWN_ROW).cast(pl.UInt64),
        pl.lit(None, pl.String).alias(OWN_REASON),
        pl.lit(None, pl.String).alias(OWN_MESSAGE),
    )


def _as_text(cell: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """A column's cells as text; None where there is no one way to write them."""
    if dtype.is_float():
        # A whole number that is held exactly is never written with an exponent.
        return cell.fill_nan(None).cast(pl.String).str.strip_suffix(".0")
    if dtype.is_temporal():
        return cell.dt.to_string("iso:strict")
    if dtype.is_nested() or dtype == pl.Binary():
        return None
    return cell.cast(pl.String)
