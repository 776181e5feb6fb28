"""
What an .xlsb sheet's own records say of its cells: which of them a reader cannot give as they were written.

The records are those of [MS-XLSB], "Excel (.xlsb) Binary File Format". It must never pass over a kind of cell that
it does not know.
"""

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast
from xml.etree.ElementTree import ParseError, fromstring

from bulkissue.input.sheets.cells import BOOLEAN, ERROR, NO_VALUE, NO_ZIP, Cells, NotLegible, Sheet, of_format

_ROW, _BLANK = 0, 1
_NUMBERS = frozenset({2, 5, 9})  # BrtCellRk, BrtCellReal, BrtFmlaNum
_TEXTS = frozenset({6, 7, 8, 62})  # BrtCellSt, BrtCellIsst, BrtFmlaString, BrtCellRString
_FORMULA_TEXT = 8
_CAUSES = {3: ERROR, 11: ERROR, 4: BOOLEAN, 10: BOOLEAN}
_SHORT = frozenset(range(12, 19))  # cells without a column of their own, which Excel does not write to files
_FORMAT, _STYLE, _STYLES_BEGIN, _STYLES_END, _SHEET = 44, 47, 617, 618, 156
_HIDDEN = 0x10
_LARGEST_RECORD = 16 << 20


def sheets_of(path: Path) -> list[Sheet]:
    """
    The sheets of an .xlsb workbook, in its order.

    Raises:
        NotLegible: Its records are broken, or not as the format has them.
    """
    with _legible(), zipfile.ZipFile(path) as book:
        return [sheet for sheet, _ in _listed(book)]


def cells_of(path: Path, sheet: str) -> Cells:
    """
    Look through one sheet of an .xlsb workbook.

    Args:
        path: The workbook.
        sheet: The sheet's name.

    Returns:
        What is to be known of its cells.

    Raises:
        NotLegible: Its records are broken, or not as the format has them.
    """
    with _legible(), zipfile.ZipFile(path) as book:
        relations = {
            one.get("Id"): one.get("Target", "")
            for one in fromstring(_small(book, "xl/_rels/workbook.bin.rels"))  # noqa: S314 - expat refuses bombs
        }
        target = next(relations[relation] for listed, relation in _listed(book) if listed.name == sheet)
        part = target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
        styles = _styles(book)
        with book.open(part) as opened:
            return _read(opened, styles)


@contextmanager
def _legible() -> Iterator[None]:
    try:
        yield
    except (*NO_ZIP, KeyError, IndexError, ParseError, EOFError, struct.error, ValueError) as trouble:
        raise NotLegible(f"the workbook's records cannot be read ({type(trouble).__name__})") from trouble


def _read(source: IO[bytes], styles: list[str]) -> Cells:
    found = Cells()
    row, hidden = -1, False
    for kind, data in _records(source):
        if kind == _ROW:
            row, hidden = struct.unpack_from("<I", data)[0], bool(data[11] & _HIDDEN)
        elif kind in _NUMBERS or kind in _TEXTS or kind in _CAUSES:
            column, style = struct.unpack_from("<II", data)
            cause, valued = _CAUSES.get(kind, ""), True
            if kind in _NUMBERS:
                cause = styles[style & 0xFFFFFF] if styles else ""
            elif kind == _FORMULA_TEXT and not struct.unpack_from("<I", data, 8)[0]:
                cause, valued = NO_VALUE, False
            found.add(row, column, cause, valued=valued, hidden=hidden)
        elif kind in _SHORT:
            raise NotLegible("a cell has no place")
    return found


def _records(source: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Every record's number and data."""
    file = io.BufferedReader(cast("io.RawIOBase", source), 1 << 20)
    while first := file.read(1):
        kind = first[0]
        if kind & 0x80:
            kind = kind & 0x7F | file.read(1)[0] << 7
        size = 0
        for shift in (0, 7, 14, 21):
            byte = file.read(1)[0]
            size |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
        if size > _LARGEST_RECORD:
            raise NotLegible("a record is too large")
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        yield kind, data


def _listed(book: zipfile.ZipFile) -> Iterator[tuple[Sheet, str]]:
    """The workbook's sheets, and by which relation each is found."""
    for kind, data in _records(io.BytesIO(_small(book, "xl/workbook.bin"))):
        if kind == _SHEET:
            relation, at = _text(data, 8)
            yield Sheet(_text(data, at)[0], visible=not struct.unpack_from("<I", data)[0]), relation


def _styles(book: zipfile.ZipFile) -> list[str]:
    """For each style of a cell: why a number in it is not known as written, or nothing."""
    if "xl/styles.bin" not in book.namelist():
        return []
    codes: dict[int, str] = {}
    styles: list[str] = []
    inside = False
    for kind, data in _records(io.BytesIO(_small(book, "xl/styles.bin"))):
        if kind == _FORMAT:
            codes[struct.unpack_from("<H", data)[0]] = _text(data, 2)[0]
        elif kind in {_STYLES_BEGIN, _STYLES_END}:
            inside = kind == _STYLES_BEGIN
        elif kind == _STYLE and inside:
            number = struct.unpack_from("<H", data, 2)[0]
            styles.append(of_format(number, codes.get(number)))
    return styles


def _text(data: bytes, at: int) -> tuple[str, int]:
    """A wide string, and where it ends."""
    length = struct.unpack_from("<I", data, at)[0]
    end = at + 4 + 2 * length
    return data[at + 4 : end].decode("utf-16-le"), end


def _small(book: zipfile.ZipFile, part: str) -> bytes:
    if book.getinfo(part).file_size > _LARGEST_RECORD:
        raise NotLegible(f"{part} is larger than {_LARGEST_RECORD >> 20} MiB")
    return book.read(part)
