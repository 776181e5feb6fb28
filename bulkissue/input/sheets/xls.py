"""
What an .xls sheet (Excel 97 to 2003) says of its cells beside their values, by way of xlrd.

It must never let a file that is damaged be taken for one that is read.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bulkissue.input.sheets.cells import BOOLEAN, DATE, ERROR, NO_VALUE, Cells, NotLegible, Sheet, of_format

if TYPE_CHECKING:
    import xlrd


def sheets_of(path: Path) -> list[Sheet]:
    """
    The sheets of an .xls workbook, in its order.

    Raises:
        NotLegible: It is not as the format has it, or has a password.
        ImportError: xlrd is not installed.
    """
    with _opened(path) as book:
        return [Sheet(name, not book.sheet_by_name(name).visibility) for name in book.sheet_names()]


def cells_of(path: Path, sheet: str) -> Cells:
    """
    Look through one sheet of an .xls workbook.

    Args:
        path: The workbook.
        sheet: The sheet's name.

    Returns:
        What is to be known of its cells.

    Raises:
        NotLegible: It is not as the format has it, or has a password.
        ImportError: xlrd is not installed.
    """
    with _opened(path) as book:
        return _read(book, book.sheet_by_name(sheet))


@contextmanager
def _opened(path: Path) -> "Iterator[xlrd.Book]":
    import xlrd

    try:
        # Its warnings go to standard output otherwise.
        yield xlrd.open_workbook(path, logfile=io.StringIO(), formatting_info=True, on_demand=True, ragged_rows=True)
    except NotLegible:
        raise
    except Exception as trouble:  # xlrd lets through whatever its reading runs into
        # A workbook with a password is a container of something else.
        locked = "ncrypt" in str(trouble) or "OLE2 compound" in str(trouble)
        what = "it has a password" if locked else f"its cells cannot be told apart ({type(trouble).__name__})"
        raise NotLegible(what) from trouble


def _read(book: "xlrd.Book", page: "xlrd.sheet.Sheet") -> Cells:
    import xlrd

    found = Cells()
    for row in range(page.nrows):
        hidden = row in page.rowinfo_map and bool(page.rowinfo_map[row].hidden)
        for column, kind in enumerate(page.row_types(row)):
            if kind in {xlrd.XL_CELL_EMPTY, xlrd.XL_CELL_BLANK}:
                continue
            cause = ""
            if kind == xlrd.XL_CELL_TEXT and page.cell_value(row, column) == "":
                cause = NO_VALUE
            elif kind == xlrd.XL_CELL_NUMBER:
                number = book.xf_list[page.cell_xf_index(row, column)].format_key
                cause = of_format(number, book.format_map[number].format_str)
            elif kind != xlrd.XL_CELL_TEXT:
                cause = {xlrd.XL_CELL_DATE: DATE, xlrd.XL_CELL_BOOLEAN: BOOLEAN, xlrd.XL_CELL_ERROR: ERROR}[kind]
            found.add(row, column, cause, hidden=hidden)
    return found
