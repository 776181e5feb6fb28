"""
What an .xlsx sheet's own XML says of its cells: which of them a reader cannot give as they were written.

A formula without a stored value, an error, a date, a time, a boolean and a number shown otherwise than its digits
come from every reader as nothing or as something else. This names them, so that none is taken for an empty cell or
a clean value. It must never change a value; it only marks.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.parsers import expat

from bulkissue.input.sheets.cells import (
    BOOLEAN,
    DATE,
    ERROR,
    MOST_CELLS,
    NO_VALUE,
    NO_ZIP,
    Cells,
    NotLegible,
    Sheet,
    of_format,
)

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
#: The largest part that is read whole: the workbook's list of sheets and its styles, not a sheet.
_SMALL_PART = 64 << 20
_PIECE = 1 << 20
_REFERENCE = re.compile(r"([A-Z]+)([0-9]+)")
_ROW = re.compile(rb'<row [^>]*?\br="([0-9]+)"')
#: Of columns beyond Z.
_WIDE_COLUMN = re.compile(rb'<c r="([A-Z]{2,3})[0-9]')
#: Where none of these stands in a sheet and no style is unusual, every cell is as it was written.
_SUSPICIOUS = (b"<f", b't="e"', b't="b"', b't="d"', b"hidden=", b":f>", b":f ")


def sheets_of(path: Path) -> list[Sheet]:
    """
    The sheets of an .xlsx or .xlsm workbook, in its order.

    Raises:
        NotLegible: The XML is broken, or not as the format has it.
    """
    with _legible(), zipfile.ZipFile(path) as book:
        found = _small(book, "xl/workbook.xml").iter(f"{_MAIN}sheet")
        return [Sheet(one.attrib["name"], one.get("state", "visible") == "visible") for one in found]


def cells_of(path: Path, sheet: str) -> Cells:
    """
    Look through one sheet of an .xlsx or .xlsm workbook.

    Args:
        path: The workbook.
        sheet: The sheet's name.

    Returns:
        What is to be known of its cells.

    Raises:
        NotLegible: The XML is broken, or not as the format has it.
    """
    with _legible(), zipfile.ZipFile(path) as book:
        part = _part_of(book, sheet)
        styles = _styles(book)
        plain = None if any(styles) else _if_plain(book, part)
        if plain is not None:
            return plain
        with book.open(part) as opened:
            return _Reader(styles).read(opened)


@contextmanager
def _legible() -> Iterator[None]:
    try:
        yield
    except (*NO_ZIP, KeyError, ParseError, expat.ExpatError, EOFError, ValueError) as trouble:
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
    return (
        []
        if styles is None
        else [of_format(int(one.get("numFmtId", "0")), codes.get(one.get("numFmtId", "0"))) for one in styles]
    )


def _if_plain(book: zipfile.ZipFile, part: str) -> Cells | None:
    """
    A sheet's measures, at least, where no cell in it can be otherwise than written.

    Returns:
        None where that, or how large it is, has to be looked for.
    """
    tail, widest, height = b"", b"A", 0
    valued = usual = False
    with book.open(part) as opened:
        while piece := opened.read(_PIECE):
            whole = tail + piece
            if any(mark in whole for mark in _SUSPICIOUS):
                return None
            usual = usual or b"<sheetData" in whole
            valued = valued or b"<v" in whole or b"<is" in whole
            widest = max([widest, *_WIDE_COLUMN.findall(whole)], key=lambda column: (len(column), column))
            if found := _ROW.match(whole, max(whole.rfind(b"<row "), 0)):
                height = int(found[1])
            tail = piece[-64:]
    if not usual or (valued and not height):
        return None
    if not valued:
        return Cells()
    measured = Cells(columns=(0, _column_of(f"{widest.decode()}1")), height=height)
    return measured if measured.area <= MOST_CELLS else None


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
        self._cells.add(self._row, self._column, self._cause(), valued=bool(self._value), hidden=self._hidden)

    def _cause(self) -> str:
        if self._kind == "e":
            return ERROR
        if self._kind == "b":
            return BOOLEAN
        if self._kind == "d":
            return DATE
        if self._formula and not self._value and self._kind != "str":
            return NO_VALUE
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
