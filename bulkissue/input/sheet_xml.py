"""
What an .xlsx sheet's own XML says of its cells: which of them a reader cannot give as they were written.

A formula without a stored value, an error, a date, a time, a boolean and a number shown otherwise than its digits
come from every reader as nothing or as something else. This names them, so that none is taken for an empty cell or
a clean value. It must never change a value; it only marks.
"""

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.parsers import expat

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
#: The largest part that is read whole: the workbook's list of sheets and its styles, not a sheet.
_SMALL_PART = 64 << 20
_PIECE = 1 << 20
#: The numbers of Excel's own formats for dates and times.
_DATES = frozenset([*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)])
#: Formats that show a whole number's digits, whatever they put between or behind them.
_PLAIN_FORMAT = re.compile(r"(general|@|#|0|#,##0|# ##0)([.,]0+)?(;.*)?", re.IGNORECASE)
_REFERENCE = re.compile(r"([A-Z]+)([0-9]+)")
#: Where none of these stands in a sheet and no style is unusual, every cell is as it was written.
_SUSPICIOUS = (b"<f", b't="e"', b't="b"', b't="d"', b"hidden=", b":f>", b":f ")


class NotLegible(Exception):
    """The workbook's XML is not as the format has it."""


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


def cells_of(path: Path, sheet: str) -> Cells | None:
    """
    Look through one sheet of an .xlsx or .xlsm workbook.

    Args:
        path: The workbook.
        sheet: The sheet's name.

    Returns:
        What is to be known of its cells; None where every cell is as it was written and no row is hidden.

    Raises:
        NotLegible: The XML is broken, or not as the format has it; or the workbook is of another format, of which it
            cannot be told what its cells are (.xlsb, .ods).
    """
    try:
        with zipfile.ZipFile(path) as book:
            if "xl/workbook.xml" not in book.namelist():
                raise NotLegible("it is no .xlsx workbook")
            part = _part_of(book, sheet)
            styles = _styles(book)
            if not any(styles) and not _is_suspicious(book, part):
                return None
            with book.open(part) as opened:
                return _Reader(styles).read(opened)
    except (zipfile.BadZipFile, KeyError, ParseError, expat.ExpatError, EOFError, ValueError) as trouble:
        raise NotLegible(f"the workbook's XML cannot be read ({type(trouble).__name__})") from trouble


def _small(book: zipfile.ZipFile, part: str) -> Element:
    if book.getinfo(part).file_size > _SMALL_PART:
        raise NotLegible(f"{part} is larger than {_SMALL_PART >> 20} MiB")
    return fromstring(book.read(part))  # noqa: S314 - expat refuses entities that expand without end


def _part_of(book: zipfile.ZipFile, sheet: str) -> str:
    """Where in the archive a sheet lies."""
    sheets = _small(book, "xl/workbook.xml").iter(f"{_MAIN}sheet")
    link = next((one.get(_RELATION) for one in sheets if one.get("name") == sheet), None)
    relations = _small(book, "xl/_rels/workbook.xml.rels")
    target = next((one.get("Target", "") for one in relations if link and one.get("Id") == link), None)
    if not target:
        raise NotLegible("its list of sheets does not say where this one lies")
    return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"


def _styles(book: zipfile.ZipFile) -> list[str]:
    """For each style of a cell: why a number in it is not known as written, or nothing."""
    if "xl/styles.xml" not in book.namelist():
        return []
    root = _small(book, "xl/styles.xml")
    codes = {one.get("numFmtId"): one.get("formatCode", "") for one in root.iter(f"{_MAIN}numFmt")}
    styles = root.find(f"{_MAIN}cellXfs")
    return [] if styles is None else [_of_format(one.get("numFmtId", "0"), codes) for one in styles]


def _of_format(number: str, codes: dict[str | None, str]) -> str:
    code = codes.get(number)
    if code is None:
        if int(number) in _DATES:
            return "is a date or time"
        return "is a number in a format of its own" if int(number) in {9, 10, 11, 12, 13, 48} else ""
    bare = re.sub(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.', "", code)
    if re.search(r"[ymdhs]", bare, re.IGNORECASE) and "general" not in bare.lower():
        return "is a date or time"
    return "" if _PLAIN_FORMAT.fullmatch(code) else "is a number in a format of its own"


def _is_suspicious(book: zipfile.ZipFile, part: str) -> bool:
    tail = b""
    with book.open(part) as opened:
        while piece := opened.read(_PIECE):
            if any(mark in tail + piece for mark in _SUSPICIOUS):
                return True
            tail = piece[-16:]
    return False


class _Reader:
    """Goes through a sheet's XML once, without holding it."""

    def __init__(self, styles: list[str]) -> None:
        self._styles = styles
        self._cells = Cells()
        self._row = self._column = -1
        self._hidden = self._formula = self._in_value = False
        self._kind = self._style = ""
        self._value = ""

    def read(self, source: IO[bytes]) -> Cells:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.ParseFile(source)
        return self._cells

    def _start(self, name: str, given: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        if name == "row":
            self._row = int(given["r"]) - 1 if "r" in given else self._row + 1
            self._column = -1
            self._hidden = given.get("hidden") in {"1", "true"}
        elif name == "c":
            self._column = _column_of(given["r"]) if "r" in given else self._column + 1
            self._kind, self._style = given.get("t", "n"), given.get("s", "0")
            self._formula, self._value = False, ""
        elif name == "f":
            self._formula = True
        elif name in {"v", "t"}:
            self._in_value = True

    def _text(self, text: str) -> None:
        if self._in_value:
            self._value += text

    def _end(self, name: str) -> None:
        name = name.rpartition(" ")[2]
        if name in {"v", "t"}:
            self._in_value = False
        elif name == "c" and (self._value or self._formula):
            self._close_cell()

    def _close_cell(self) -> None:
        found, column = self._cells, self._column
        found.height = max(found.height, self._row + 1)
        if self._value:
            first, last = found.columns or (column, column)
            found.columns = (min(first, column), max(last, column))
        if self._hidden:
            found.hidden.add(self._row)
        if cause := self._cause():
            found.causes[self._row, column] = cause

    def _cause(self) -> str:
        if self._kind == "e":
            return "is an error of the spreadsheet"
        if self._kind == "b":
            return "is a boolean"
        if self._kind == "d":
            return "is a date or time"
        if self._formula and not self._value and self._kind != "str":
            return "is a formula without a stored value"
        if self._kind == "n":
            style = int(self._style)
            return self._styles[style] if style < len(self._styles) else ""
        return ""


def _column_of(reference: str) -> int:
    found = _REFERENCE.match(reference)
    if found is None:
        raise NotLegible("a cell has no place")
    column = 0
    for letter in found[1]:
        column = column * 26 + ord(letter) - 64
    return column - 1
