"""
Ledgers as workbooks, for people who open them in a spreadsheet and may give them back.

Every cell is text, so that no program makes a number, a date or a formula of it. It must never hold more than a few
rows in memory.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from bulkissue.errors import SettingsRefused
from bulkissue.files import replacing_path

#: Rows of a sheet, without its header.
MOST_ROWS = 1_048_575
#: Characters of a cell; a spreadsheet cuts longer ones.
_LONGEST_CELL = 32_767
_NARROWEST, _WIDEST = 8, 48
#: A fixed moment, so that the same ledger gives the same bytes.
_MADE = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Workbook:
    """One workbook that was written, and how many rows it has."""

    path: Path
    rows: int


def require_writer() -> None:
    """
    Make sure that workbooks can be written, before anything is sent.

    Raises:
        SettingsRefused: The library is not installed.
    """
    try:
        import xlsxwriter  # noqa: F401 - only whether it is there
    except ImportError as trouble:
        raise SettingsRefused(
            "the part that writes workbooks is not installed",
            hint="pip install 'bulkissue[xlsx]', or take xlsx out of [output] formats",
        ) from trouble


def write(ledger: Path, rows: int) -> list[Workbook]:
    """
    Write a ledger's CSV file as workbooks beside it: one, or as many as its rows need.

    Args:
        ledger: The CSV file.
        rows: How many it has, for the widths of the columns.

    Returns:
        `LEDGER.xlsx`, and `LEDGER-2.xlsx` … where there are more rows than a sheet takes.
    """
    written = []
    with ledger.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        header = next(lines)
        for number in range(1, 2 + max(0, rows - 1) // MOST_ROWS):
            path = ledger.with_name(f"{ledger.stem}{'' if number == 1 else f'-{number}'}.xlsx")
            with replacing_path(path) as partial:
                count = _write_one(partial, header, islice(lines, MOST_ROWS))
            written.append(Workbook(path, count))
    return written


def _write_one(path: Path, header: Sequence[str], lines: Iterator[list[str]]) -> int:
    import xlsxwriter

    first = list(islice(lines, 200))
    with xlsxwriter.Workbook(path, {"constant_memory": True, "in_memory": False, "strings_to_urls": False}) as book:
        book.set_properties({"created": _MADE})
        sheet = book.add_worksheet("ledger")
        bold = book.add_format({"bold": True, "num_format": "@"})
        as_text = book.add_format({"num_format": "@"})
        for column, name in enumerate(header):
            longest = max([len(name), *(len(line[column]) for line in first)])
            sheet.set_column(column, column, min(max(longest + 2, _NARROWEST), _WIDEST), as_text)
        sheet.freeze_panes(1, 0)
        for column, name in enumerate(header):
            sheet.write_string(0, column, name, bold)
        count = 0
        for count, line in enumerate(_all_of(first, lines), start=1):
            for column, cell in enumerate(line):
                if cell:
                    sheet.write_string(count, column, cell[:_LONGEST_CELL], as_text)
        sheet.autofilter(0, 0, max(count, 1), len(header) - 1)
    return count


def _all_of(first: list[list[str]], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield from first
    yield from rest
