"""
What an OpenDocument sheet's own XML says of its cells: which of them a reader cannot give as they were written.

It must never take a number for clean whose digits are not those that are shown.
"""

import re
import zipfile
from pathlib import Path
from typing import IO
from xml.parsers import expat

from bulkissue.input.sheets.cells import (
    BOOLEAN,
    DATE,
    ERROR,
    FORMATTED,
    MOST_ROWS,
    NO_VALUE,
    NO_ZIP,
    Cells,
    NotLegible,
    Sheet,
)

_TABLE = "urn:oasis:names:tc:opendocument:xmlns:table:1.0 "
_OFFICE = "urn:oasis:names:tc:opendocument:xmlns:office:1.0 "
_TEXT = "urn:oasis:names:tc:opendocument:xmlns:text:1.0 "
_STYLE = "urn:oasis:names:tc:opendocument:xmlns:style:1.0 "
_CELLS = (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell")
_ERRORS = re.compile(r"#[A-Z/0!?]+[!?]|#N/A|Err:[0-9]+")
_TYPES = {"boolean": BOOLEAN, "date": DATE, "time": DATE, "percentage": FORMATTED, "currency": FORMATTED}


def sheets_of(path: Path) -> list[Sheet]:
    """
    The sheets of an .ods workbook, in its order.

    Raises:
        NotLegible: The XML is broken, or not as the format has it, or has a password.
    """
    return _read(path, "").sheets


def cells_of(path: Path, sheet: str) -> Cells:
    """
    Look through one sheet of an .ods workbook.

    Args:
        path: The workbook.
        sheet: The sheet's name.

    Returns:
        What is to be known of its cells.

    Raises:
        NotLegible: The XML is broken, or not as the format has it, or has a password.
    """
    return _read(path, sheet).cells


def _read(path: Path, sheet: str) -> "_Reader":
    reader = _Reader(sheet)
    try:
        with zipfile.ZipFile(path) as book, book.open("content.xml") as opened:
            reader.read(opened)
    except (*NO_ZIP, KeyError, expat.ExpatError, EOFError, ValueError) as trouble:
        raise NotLegible(f"the workbook's XML cannot be read ({type(trouble).__name__})") from trouble
    return reader


class _Reader:
    """Goes through the XML once, without holding it."""

    def __init__(self, sheet: str) -> None:
        self._sheet = sheet
        self.cells = Cells()
        self.sheets: list[Sheet] = []
        self._unseen: set[str] = set()  # styles of sheets that are not shown
        self._style = ""
        self._inside = self._hidden = self._in_text = False
        self._row = self._column = 0
        self._rows = self._columns = 1
        self._given: dict[str, str] = {}
        self._shown = ""
        self._notes = 0  # how deep in a comment, whose text is not the cell's

    def read(self, source: IO[bytes]) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.ParseFile(source)

    def _start(self, name: str, given: dict[str, str]) -> None:
        if name == f"{_TABLE}table":
            name = given.get(f"{_TABLE}name", "")
            self.sheets.append(Sheet(name, given.get(f"{_TABLE}style-name") not in self._unseen))
            self._inside = name == self._sheet
        elif name == f"{_STYLE}style":
            self._style = given.get(f"{_STYLE}name", "")
        elif name == f"{_STYLE}table-properties" and given.get(f"{_TABLE}display") == "false":
            self._unseen.add(self._style)
        elif not self._inside:
            return
        elif name == f"{_TABLE}table-row":
            self._rows = int(given.get(f"{_TABLE}number-rows-repeated", "1"))
            self._hidden = given.get(f"{_TABLE}visibility") in {"collapse", "filter"}
            self._column = 0
        elif name in _CELLS:
            self._columns = int(given.get(f"{_TABLE}number-columns-repeated", "1"))
            self._given, self._shown = given, ""
        elif name == f"{_OFFICE}annotation":
            self._notes += 1
        elif name == f"{_TEXT}p":
            self._in_text = not self._notes

    def _characters(self, text: str) -> None:
        if self._in_text:
            self._shown += text

    def _end(self, name: str) -> None:
        if name == f"{_TABLE}table":
            self._inside = False
        elif not self._inside:
            return
        elif name == f"{_TEXT}p":
            self._in_text = False
        elif name == f"{_OFFICE}annotation":
            self._notes -= 1
        elif name in _CELLS:
            self._close_cell()
            self._column += self._columns
        elif name == f"{_TABLE}table-row":
            self._row += self._rows

    def _close_cell(self) -> None:
        kind = self._given.get(f"{_OFFICE}value-type")
        formula = f"{_TABLE}formula" in self._given
        if kind is None and not formula:
            return
        valued = kind is not None and not (kind == "string" and not self._shown)
        if self._rows * self._columns > MOST_ROWS:
            raise NotLegible("a cell is repeated more often than a sheet has rows")
        for row in range(self._row, self._row + self._rows):
            for column in range(self._column, self._column + self._columns):
                self.cells.add(row, column, self._cause(kind, formula=formula), valued=valued, hidden=self._hidden)

    def _cause(self, kind: str | None, *, formula: bool) -> str:
        if kind in _TYPES:
            return _TYPES[kind]
        if formula and (kind is None or (kind == "string" and not self._shown)):
            return NO_VALUE
        if formula and _ERRORS.fullmatch(self._shown):
            return ERROR
        if kind == "float" and self._shown:
            value = self._given.get(f"{_OFFICE}value", "")
            return "" if _digits(self._shown) == _digits(value) else FORMATTED
        return ""


def _digits(number: str) -> str:
    """A number's digits without what groups them, and without zeros behind the point; an exponent stays."""
    bare = re.sub(r"[\s\u00a0\u202f'\u2019]", "", number)
    bare = re.sub(r"[.,](?=[0-9]{3}(?:[.,]|$))", "", bare)
    return re.sub(r"[.,]0+$", "", bare)
