"""
What is to be known of a sheet's cells beside their values, in the same words for every format.

Pure: it must never open a file.
"""

import re
import zipfile
import zlib
from dataclasses import dataclass, field

DATE = "is a date or time"
FORMATTED = "is a number in a format of its own"
ERROR = "is an error of the spreadsheet"
BOOLEAN = "is a boolean"
NO_VALUE = "is a formula without a stored value"

#: No format has more rows, or columns.
MOST_ROWS, MOST_COLUMNS = 1 << 20, 1 << 14
#: Between the first and the last cell; readers hold a place for each, 24 bytes and more.
MOST_CELLS = 100_000_000
#: The numbers of Excel's own formats for dates and times, and for fractions, percents and exponents.
_DATES = frozenset([*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)])
_FORMATTED = frozenset({9, 10, 11, 12, 13, 48})
#: Formats that show a whole number's digits, whatever they put between or behind them.
_PLAIN_FORMAT = re.compile(r"(general|@|#|0|#,##0|# ##0)([.,]0+)?(;.*)?", re.IGNORECASE)


#: What Python's zipfile raises where an archive is not as it should be.
NO_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError)


class NotLegible(Exception):
    """The workbook is not as its format has it."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet of a workbook's list: its name, and whether it is to be seen."""

    name: str
    visible: bool


@dataclass(slots=True)
class Cells:
    """
    What is to be known of a sheet's cells beside their values.

    Attributes:
        causes: By row and column, both from 0: why this cell is not known as written, in words that end
            "the cell in column X …".
        hidden: Rows, from 0, that are hidden or filtered out and have cells.
        columns: The first and last column, from 0, that have a value; None where no cell has one.
        height: How many rows there are up to the last one with a cell.
    """

    causes: dict[tuple[int, int], str] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    columns: tuple[int, int] | None = None
    height: int = 0

    @property
    def area(self) -> int:
        """How many places there are between the first and the last cell, taken or not."""
        first, last = self.columns or (0, -1)
        return self.height * (last - first + 1)

    def add(self, row: int, column: int, cause: str, *, valued: bool = True, hidden: bool = False) -> None:
        """
        Take in a cell that has a value or a formula.

        Args:
            row: From 0.
            column: From 0.
            cause: Why it is not known as written, or nothing.
            valued: Whether it has a value.
            hidden: Whether its row is hidden.

        Raises:
            NotLegible: No sheet has such a place.
        """
        if row >= MOST_ROWS or column >= MOST_COLUMNS:
            raise NotLegible("a cell lies beyond the last row or column that a sheet can have")
        self.height = max(self.height, row + 1)
        if valued:
            first, last = self.columns or (column, column)
            self.columns = (min(first, column), max(last, column))
        if hidden:
            self.hidden.add(row)
        if cause:
            self.causes[row, column] = cause


def of_format(number: int, code: str | None) -> str:
    """
    Why a number in a format of Excel's is not known as written, or nothing.

    Args:
        number: The format's.
        code: Its code, where the workbook has one for it.
    """
    if code is None:
        if number in _DATES:
            return DATE
        return FORMATTED if number in _FORMATTED else ""
    bare = re.sub(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.', "", code)
    if re.search(r"[ymdhs]", bare, re.IGNORECASE) and "general" not in bare.lower():
        return DATE
    return "" if _PLAIN_FORMAT.fullmatch(code) else FORMATTED
