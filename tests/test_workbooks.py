"""Workbooks of every kind become text, and what is not known as written names nobody."""

import datetime as dt
import io
import struct
import sys
import zipfile
from xml.sax.saxutils import quoteattr

import pytest
import xlwt
from intaking import workbook


def test_workbook(take):
    """A sheet becomes text: numbers without a point or exponent, text cells with their zeros, blank rows left out."""

    def fill(book):
        book.add_worksheet("Empty")
        sheet = book.add_worksheet("Customers")
        hidden = book.add_worksheet("Hidden")
        hidden.hide()
        hidden.write(0, 0, "x")
        sheet.write_row(1, 1, ["Mobile", "External Id", "Name", "Joined", "VIP"])
        sheet.write_row(2, 1, [919986000586, "000003873472", "Mira", None, True])
        sheet.write_datetime(2, 4, dt.date(2026, 11, 1), book.add_format({"num_format": "dd.mm.yy"}))
        sheet.write_row(4, 1, [9.2e11, 42, "", None, None])
        sheet.write_blank(4, 9, None, book.add_format({"bold": True}))
        sheet.write_row(5, 1, [0.5, "1e5"])

    taken = take({"in.xlsx": workbook(fill)})
    assert taken.cells() == [
        ("919986000586", "000003873472", "Mira", "2026-11-01 00:00:00", "true"),
        ("920000000000", "42", None, None, None),
        ("0.5", "1e5", None, None, None),
    ]
    assert taken.frame["_bi_row"].to_list() == [1, 2, 3]
    assert taken.file.columns == {"mobile": "Mobile", "external_id": "External Id"}
    assert taken.file.notes == ()


def test_numbers_that_excel_rounded(take):
    """A number of 16 digits or more has been rounded by Excel and rejects its row; the same as text does not."""

    def fill(book):
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["Customer ID", "Card"])
        sheet.write_number(1, 0, 123456789012345)
        sheet.write_number(1, 1, 1234567890123456)
        sheet.write_number(2, 0, 1234567890123456)
        sheet.write_string(3, 0, "1234567890123456")

    taken = take({"in.xlsx": workbook(fill)})
    assert taken.frame["_bi_reason"].to_list() == [None, "validate.unreadable_value", None]


def test_several_sheets(take, refused):
    """A workbook with several sheets that have cells is refused until the job names one, by name or number."""

    def fill(book):
        for name in ("One", "Two"):
            book.add_worksheet(name).write_row(0, 0, [f"Mobile {name}", "Email"])

    assert "2 sheets with cells: One, Two" in refused({"in.xlsx": workbook(fill)})
    assert take({"in.xlsx": workbook(fill)}, sheet="Two").said.columns == ("Mobile Two", "Email")
    assert take({"in.xlsx": workbook(fill)}, sheet=1).said.columns == ("Mobile One", "Email")
    assert "has no sheet 'Three'" in refused({"in.xlsx": workbook(fill)}, sheet="Three")
    assert "has no sheet 3" in refused({"in.xlsx": workbook(fill)}, sheet=3)
    assert "no sheet with data" in refused({"in.xlsx": workbook(lambda book: book.add_worksheet())})
    assert "no sheet with data" in refused(
        {"in.xlsx": workbook(lambda book: book.add_worksheet().write_string(0, 0, ""))}
    )


@pytest.mark.parametrize("left", [0, 2])
def test_cells_not_known_as_written(take, left):
    """A cell that a reader gives as nothing or as something else rejects its row with the cause; no row vanishes."""

    def fill(book):
        sheet = book.add_worksheet()
        date = book.add_format({"num_format": "yyyy-mm-dd"})
        zeros, grouped = book.add_format({"num_format": "00000"}), book.add_format({"num_format": "#,##0"})
        sheet.write_row(3, left, ["Mobile", "External Id"])
        sheet.write_row(4, left, ["919986000501", "a"])
        sheet.write_datetime(5, left, dt.datetime(2026, 1, 1), date)  # noqa: DTZ001 - a sheet knows no zone
        sheet.write_number(6, left, 7, zeros)
        sheet.write_number(7, left, 919986000502, grouped)
        sheet.write_formula(8, left, "=1+1", None, "")
        sheet.write_string(8, left + 1, "b")
        sheet.write_formula(9, left, "=1/0", None, "#DIV/0!")
        sheet.write_boolean(10, left, True)
        sheet.write_formula(11, left, '=A1&""', None, "919986000503")
        sheet.write_formula(12, left, "=A1", None, "")

    taken = take({"in.xlsx": workbook(fill)})
    said = taken.frame["_bi_message"].to_list()
    assert said == [
        None,
        'the cell in column "Mobile" in row 6 of the sheet is a date or time',
        'the cell in column "Mobile" in row 7 of the sheet is a number in a format of its own',
        None,
        'the cell in column "Mobile" in row 9 of the sheet is a formula without a stored value',
        'the cell in column "Mobile" in row 10 of the sheet is an error of the spreadsheet',
        'the cell in column "Mobile" in row 11 of the sheet is a boolean',
        None,
        'the cell in column "Mobile" in row 13 of the sheet is a formula without a stored value',
    ]
    assert set(taken.frame["_bi_reason"].to_list()) == {None, "validate.unreadable_value"}
    assert [mobile for mobile, _ in taken.cells()][3] == "919986000502"


def test_hidden_rows(take, refused):
    """A workbook with hidden rows is refused until the job says to take or to leave them; blank ones do not count."""

    def fill(book):
        sheet = book.add_worksheet()
        sheet.write_column(0, 0, ["Mobile", "919986000501", "919986000502", "919986000503"])
        sheet.set_row(2, None, None, {"hidden": True})
        sheet.set_row(7, None, None, {"hidden": True})

    content = {"in.xlsx": workbook(fill)}
    assert "1 hidden or filtered-out rows (the first is row 3 of the sheet)" in refused(content)
    assert take(content, hidden_rows="take").cells() == [("919986000501",), ("919986000502",), ("919986000503",)]
    left = take(content, hidden_rows="leave")
    assert left.cells() == [("919986000501",), ("919986000503",)]
    assert left.file.notes == ("1 hidden rows of the sheet are left out",)


def test_a_sheet_that_is_no_xml(refused):
    """A workbook whose styles are broken is refused in words, as its cells could be anything."""
    content = io.BytesIO(workbook(lambda book: book.add_worksheet().write(0, 0, "Mobile")))
    with zipfile.ZipFile(content, "a") as book, pytest.warns(UserWarning, match="Duplicate"):
        book.writestr("xl/styles.xml", "<broken")
    assert "cannot be read as a workbook" in refused({"in.xlsx": content.getvalue()})


def test_workbooks_need_fastexcel(refused, monkeypatch):
    """Without the extra, a workbook is refused with what to install."""
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    content = workbook(lambda book: book.add_worksheet().write(0, 0, "Mobile"))
    assert "pip install 'bulkissue[xlsx]'" in refused({"in.xlsx": content})


# --- older and other formats


def xls(rows, hidden=()):
    """An .xls sheet; a cell is a text, a number, a number and its format, a date, a boolean or a formula."""
    book = xlwt.Workbook()
    sheet = book.add_sheet("Customers")
    for at, row in enumerate(rows):
        for column, cell in enumerate(row):
            if isinstance(cell, tuple):
                sheet.write(at, column, cell[0], xlwt.easyxf(num_format_str=cell[1]))
            elif isinstance(cell, dt.date):
                sheet.write(at, column, cell, xlwt.easyxf(num_format_str="DD/MM/YYYY"))
            elif isinstance(cell, str) and cell.startswith("="):
                sheet.write(at, column, xlwt.Formula(cell[1:]))
            elif cell is not None:
                sheet.write(at, column, cell)
        sheet.row(at).hidden = at in hidden
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def ods(rows, hidden=()):
    """The same as an .ods workbook, as LibreOffice writes it."""
    lines = []
    for at, row in enumerate(rows):
        cells = "".join(map(ods_cell, row))
        seen = "filter" if at in hidden else "visible"
        lines.append(f'<table:table-row table:visibility="{seen}">{cells}</table:table-row>')
    names = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text")
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as book:
        book.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        book.writestr("META-INF/manifest.xml", "<manifest/>")
        book.writestr(
            "content.xml",
            f"<office:document-content{names}><office:body><office:spreadsheet>"
            f'<table:table table:name="Customers">{"".join(lines)}'
            '<table:table-row table:number-rows-repeated="1048000">'
            '<table:table-cell table:number-columns-repeated="99"/></table:table-row>'
            "</table:table></office:spreadsheet></office:body></office:document-content>",
        )
    return content.getvalue()


def ods_cell(cell):
    shown = f"<text:p>{cell}</text:p>"
    given = 'office:value-type="string"'
    if cell is None:
        return "<table:table-cell/>"
    if isinstance(cell, bool):
        given = 'office:value-type="boolean" office:boolean-value="true"'
    elif isinstance(cell, dt.date):
        given = f'office:value-type="date" office:date-value="{cell}"'
    elif isinstance(cell, tuple):
        given, shown = f'office:value-type="float" office:value="{cell[0]}"', f"<text:p>{cell[0]:07d}</text:p>"
    elif not isinstance(cell, str):
        given, shown = f'office:value-type="float" office:value="{cell}"', f"<text:p>{cell:,}</text:p>"
    elif cell.startswith("="):
        given, shown = f"table:formula={quoteattr('of:' + cell)}", ""
    note = "<office:annotation><text:p>a note of 7</text:p></office:annotation>"
    return f"<table:table-cell {given}>{note}{shown}</table:table-cell>"


def xlsb(rows, hidden=()):
    """The same as an .xlsb workbook."""

    def record(kind, data=b""):
        number = bytes([kind]) if kind < 128 else bytes([kind & 0x7F | 0x80, kind >> 7])
        size = len(data)
        return number + (bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])) + data

    def text(value):
        return struct.pack("<I", len(value)) + value.encode("utf-16-le")

    def cell_record(column, cell):
        at = struct.pack("<I", column)
        plain, zeros, date = (struct.pack("<I", style) for style in (0, 1, 2))
        if isinstance(cell, bool):
            return record(4, at + plain + b"\x01")
        if isinstance(cell, dt.date):
            return record(5, at + date + struct.pack("<d", 46000))
        if isinstance(cell, tuple):
            return record(5, at + zeros + struct.pack("<d", cell[0]))
        if isinstance(cell, str) and cell.startswith("="):
            return record(8, at + plain + text("") + struct.pack("<H", 0) + struct.pack("<II", 0, 0))
        if isinstance(cell, str):
            return record(6, at + plain + text(cell))
        return record(5, at + plain + struct.pack("<d", cell))

    sheet = record(129) + record(148, struct.pack("<IIII", 0, len(rows) - 1, 0, 1)) + record(145)
    for at, row in enumerate(rows):
        flags = bytes([0, 0x10 if at in hidden else 0])
        sheet += record(0, struct.pack("<IIH", at, 0, 300) + flags + struct.pack("<BI", 0, 0))
        sheet += b"".join(cell_record(column, cell) for column, cell in enumerate(row) if cell is not None)
    sheet += record(146) + record(130)
    styles = record(278) + record(615, struct.pack("<I", 1)) + record(44, struct.pack("<H", 164) + text("0000000"))
    styles += record(616) + record(617, struct.pack("<I", 3))
    for style in (0, 164, 14):
        styles += record(47, struct.pack("<HHHHHBBHH", 0, style, 0, 0, 0, 0, 0, 0, 0))
    styles += record(618) + record(279)
    book = record(131) + record(143) + record(156, struct.pack("<II", 0, 1) + text("rId1") + text("Customers"))
    book += record(144) + record(132)
    relations = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="rId1" Target="worksheets/sheet1.bin" Type="worksheet"/></Relationships>'
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("xl/workbook.bin", book)
        archive.writestr("xl/_rels/workbook.bin.rels", relations)
        archive.writestr("xl/styles.bin", styles)
        archive.writestr("xl/worksheets/sheet1.bin", sheet)
    return content.getvalue()


FORMATS = {".xls": xls, ".ods": ods, ".xlsb": xlsb}


@pytest.mark.parametrize("called", [None, ".xlsx", ".csv"])
@pytest.mark.parametrize("ending", FORMATS)
def test_other_formats(take, ending, called):
    """What a cell is, is known in every format and whatever the file is called; no row vanishes."""
    rows = [
        ["Mobile", "External Id"],
        ["919986000501", "007"],
        [919986000502, None],
        [None, None],
        [(7, "0000000"), "c"],
        [dt.date(2026, 1, 1), "d"],
        [True, "e"],
        ["=A1", "f"],
        [None, "g"],
    ]
    taken = take({f"in{called or ending}": FORMATS[ending](rows)})
    where = 'the cell in column "Mobile" in row {} of the sheet '
    assert taken.frame["_bi_message"].to_list() == [
        None,
        None,
        where.format(5) + "is a number in a format of its own",
        where.format(6) + "is a date or time",
        where.format(7) + "is a boolean",
        where.format(8) + "is a formula without a stored value",
        None,
    ]
    assert [mobile for mobile, _ in taken.cells()][:2] == ["919986000501", "919986000502"]
    assert [external for _, external in taken.cells()] == ["007", None, "c", "d", "e", "f", "g"]
    assert taken.frame["_bi_row"].to_list() == list(range(1, 8))


@pytest.mark.parametrize("ending", FORMATS)
def test_hidden_rows_of_other_formats(take, refused, ending):
    """Hidden and filtered-out rows are seen in every format."""
    rows = [["Mobile"], ["919986000501"], ["919986000502"], ["919986000503"]]
    content = {f"in{ending}": FORMATS[ending](rows, hidden={2})}
    assert "1 hidden or filtered-out rows (the first is row 3 of the sheet)" in refused(content)
    assert take(content, hidden_rows="leave").cells() == [("919986000501",), ("919986000503",)]


@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_workbooks(refused, ending):
    """A workbook that is cut, or has a hole, is refused in words."""
    content = FORMATS[ending]([["Mobile"], *([f"9199860{number:05}"] for number in range(500))])
    third = len(content) // 3
    damaged = [content[: 2 * third], content[:200]]
    if ending != ".xls":  # which has no checksums
        damaged.append(content[:third] + bytes(400) + content[third + 400 :])
    said = [refused({f"in{ending}": one}) for one in damaged]
    assert all("workbook" in one or "cannot be told apart" in one for one in said)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.xls", "<html><table><tr><td>Mobile</td></tr></table></html>", "in.xls is an HTML page"),
        ("in.xls", "\ufeff<!DOCTYPE html>\n<html>", "in.xls is an HTML page"),
        ("in.csv", "<!doctype HTML>", "in.csv is an HTML page"),
        ("in.xls", '<?xml version="1.0"?><Workbook>', "in.xls is an XML file"),
        ("in.xlsb", "Mobile\n919986000501\n", "in.xlsb is no workbook"),
        ("in.csv", "%PDF-1.4", "in.csv is a PDF"),
    ],
)
def test_what_is_called_a_workbook(refused, name, content, said):
    """What other programs call a workbook is refused by what it is."""
    assert said in refused({name: content})


def test_a_workbook_that_is_a_bomb(refused):
    """A workbook that unpacks to many times its size is refused before anything of it is read."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
        with book.open("xl/worksheets/sheet1.xml", "w") as sheet:
            for _ in range(300):
                sheet.write(bytes(1 << 20))
    assert "unpacks to more than 300 MiB" in refused({"in.xlsx": content.getvalue()})


@pytest.mark.parametrize("ending", [".xlsx", ".xlsb", ".ods"])
def test_a_lone_cell_far_away(refused, ending):
    """A reader would hold a place for each cell between; such a sheet is refused with what to delete."""
    wide = [["Mobile"], ["919986000501"], [*[None] * 9000, "x"]]

    def fill(book):
        sheet = book.add_worksheet()
        for at, row in enumerate([*wide[:2], *[[]] * 20_000, wide[2]]):
            sheet.write_row(at, 0, row)

    rows = [*wide[:2], *[[]] * 20_000, wide[2]]
    content = workbook(fill) if ending == ".xlsx" else FORMATS[ending](rows)
    said = refused({f"in{ending}": content})
    assert "reach over 20,003 rows and 9,001 columns" in said
    assert "delete the cells beside and below the table" in said
