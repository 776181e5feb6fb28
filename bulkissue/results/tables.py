"""
A table in a file, or as text: CSV, Parquet or a workbook, made from parts that lie on the disk.

Files take their names whole, mode 0600. It must never change a text on its way: no cell of a workbook becomes a number,
a date, a formula or a link.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from bulkissue.errors import SettingsRefused, UsageRefused
from bulkissue.files import replacing_path
from bulkissue.results.workbooks import MOST_ROWS

Format = Literal["csv", "parquet", "xlsx"]
_CELL = 32_767


def csv_text(parts: Sequence[Path], schema: pl.Schema) -> Iterator[str]:
    """The table as CSV, its header first, a part at a time."""
    yield pl.DataFrame(schema=schema).write_csv()
    for part in parts:
        yield pl.read_parquet(part).write_csv(include_header=False)


def write(
    out: Path,
    parts: Sequence[Path],
    schema: pl.Schema,
    kind: Format,
    *,
    beside: Mapping[str, Sequence[tuple[str | int, ...]]],
) -> None:
    """
    Write the table.

    Args:
        out: The file; replaced where it is there.
        parts: Parquet files of the table's columns, in order.
        schema: The columns.
        kind: The format.
        beside: Further sheets of a workbook, by name: their lines, the header first.

    Raises:
        UsageRefused: A sheet cannot hold so many lines.
        SettingsRefused: There is no XlsxWriter.
        OSError: There is no room.
    """
    table = pl.scan_parquet(list(parts), glob=False) if parts else pl.LazyFrame(schema=schema)
    lines = int(table.select(pl.len()).collect().item()) if kind == "xlsx" else 0
    if lines > MOST_ROWS:
        raise UsageRefused(
            f"a sheet holds {MOST_ROWS:,} lines below its header, and these are {lines:,}",
            hint="--format csv or parquet; or a shorter time with --from and --to",
        )
    with replacing_path(out) as partial:
        if kind == "csv":
            table.sink_csv(partial)
        elif kind == "parquet":
            table.sink_parquet(partial)
        else:
            _write_workbook(partial, parts, schema, beside)


def _write_workbook(
    path: Path, parts: Sequence[Path], schema: pl.Schema, beside: Mapping[str, Sequence[tuple[str | int, ...]]]
) -> None:
    try:
        import xlsxwriter
    except ImportError as missing:
        raise SettingsRefused(
            "a workbook needs XlsxWriter, which is not installed", hint='pip install "bulkissue[xlsx]"; or --format csv'
        ) from missing
    # Rows go to the disk as they come; beside the file, as they name customers.
    with xlsxwriter.Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)}) as book:
        # Who edits a cell does not make a number of it either.
        as_text = book.add_format({"num_format": "@"})
        sheet = book.add_worksheet("issued")
        sheet.freeze_panes(1, 0)
        _write_rows(sheet, [tuple(schema)], 0, as_text)
        begin = 1
        for part in parts:
            frame = pl.read_parquet(part)
            _write_rows(sheet, frame.iter_rows(), begin, as_text)
            begin += frame.height
        for name, lines in beside.items():
            _write_rows(book.add_worksheet(name), lines, 0, as_text)


def _write_rows(sheet: Any, rows: Iterable[tuple[object, ...]], begin: int, as_text: Any) -> None:
    for line, row in enumerate(rows, begin):
        for column, cell in enumerate(row):
            if isinstance(cell, int):
                sheet.write_number(line, column, cell)
            elif cell is not None:
                sheet.write_string(line, column, str(cell)[:_CELL], as_text)
