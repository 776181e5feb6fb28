"""
Workbooks: one sheet as text, and for each cell that is not known as it was written, why.

It must never drop a row that has a cell, nor take a sheet or hidden rows that nobody chose.
"""

import zipfile
from pathlib import Path

import polars as pl

from bulkissue import files
from bulkissue.errors import InputRefused
from bulkissue.input.column_mapping import kept_names
from bulkissue.input.sheets import ods, xls, xlsb, xlsx
from bulkissue.input.sheets.cells import MOST_CELLS, NO_ZIP, Cells, NotLegible
from bulkissue.input.tables import INEXACT, Table, numbered, numbered_names, text_or_null
from bulkissue.input.unpacking import refuse_bomb
from bulkissue.job.model import InputSection

_LONG_NUMBER = r"^-?[0-9]{16,}$"  # Excel keeps 15 digits of a number
_HINT = "save it again as .xlsx without a password, or save the sheet as CSV"
_OLD = b"\xd0\xcf\x11\xe0"
#: By ending: who says what the cells of such a workbook are, and the part of the archive by which it is known.
_FORMATS = {
    ".xlsx": (xlsx.sheets_of, xlsx.cells_of, "xl/workbook.xml"),
    ".xlsb": (xlsb.sheets_of, xlsb.cells_of, "xl/workbook.bin"),
    ".ods": (ods.sheets_of, ods.cells_of, "content.xml"),
    ".xls": (xls.sheets_of, xls.cells_of, ""),
}
_ALIKE = {".xlsm": ".xlsx", ".xltx": ".xlsx", ".xlt": ".xls"}


def is_workbook(head: bytes) -> bool:
    """Whether a file is a workbook, by its first four bytes."""
    return head in {b"PK\x03\x04", _OLD}


def _format(path: Path, name: str, head: bytes) -> str:
    """
    The ending of what a workbook is, whatever it is called.

    Raises:
        InputRefused: It is none that is read here, or unpacks to more than any workbook should.
    """
    if head == _OLD:
        return ".xls"
    try:
        with zipfile.ZipFile(path) as book:
            parts = {one.filename: one.file_size for one in book.infolist()}
    except (*NO_ZIP, ValueError) as trouble:
        raise InputRefused(f"{name} cannot be read as a workbook: it is cut or damaged", hint=_HINT) from trouble
    refuse_bomb(sum(parts.values()), path.stat().st_size, name)
    for ending, (*_, part) in _FORMATS.items():
        if part in parts:
            return ending
    raise InputRefused(f"{name} is no workbook", hint="save it again as .xlsx, or as CSV; a packed file ends in .zip")


def read_workbook(path: Path, name: str, settings: InputSection) -> Table:
    """
    One sheet of a workbook as text; rows without any cell are no rows.

    A row all of whose cells are formulas without a value, errors and the like is a row. The whole sheet is held in
    memory; Excel ends it at 1,048,576 rows.

    Args:
        path: The workbook.
        name: What it is called in messages.
        settings: `[input]`: `sheet` and `hidden_rows`.

    Raises:
        InputRefused: It is no workbook, has no data, several sheets or hidden rows of which nobody said what to do
            with them, its columns' names will not do, or fastexcel is not installed.
    """
    sha256 = files.sha256(path)
    with path.open("rb") as file:
        ending = _format(path, name, file.read(4))
    try:
        sheet, known = _chosen(path, ending, name, settings.sheet)
    except NotLegible as trouble:
        raise InputRefused(f"{name} cannot be read as a workbook: {trouble}", hint=_HINT) from trouble
    except ImportError as trouble:
        raise _not_installed(name) from trouble
    cells, numbers = _values(path, ending, name, sheet)
    cells, numbers, causes = _placed(cells, numbers, known, name)
    notes: tuple[str, ...] = ()
    keep = pl.any_horizontal(
        *((pl.col(column) != "").fill_null(value=False) for column in cells.columns),
        *(pl.col(column).is_not_null() for column in causes.columns),
    )
    if known.hidden:
        keep, notes = _without_hidden(keep, known, name, settings.hidden_rows)
    causes = _with_rounded(cells, numbers, causes)
    whole = pl.concat([cells, causes], how="horizontal").with_row_index("_bi_sheet_row")
    whole = whole.filter(keep, pl.col("_bi_sheet_row") >= settings.header_row - 1)
    # Rows are numbered without the blank ones; in the sheet the row is found by its own number.
    where = [
        pl.format("in row {} of the sheet {}", pl.col("_bi_sheet_row") + 1, one).alias(one) for one in causes.columns
    ]
    whole = whole.with_columns(where).drop("_bi_sheet_row")
    if settings.header_row > 1:
        notes = (*notes, f"the rows above row {settings.header_row} of the sheet are left out")
    if whole.is_empty():
        raise InputRefused(f"{name} has no sheet with data")
    header, rows = whole.row(0, named=True), whole.slice(1 if settings.header else 0)
    # A formatted but empty column at the side is no column.
    marks = {column: f"_bi_doubtful_{place}" for place, column in enumerate(cells.columns)}
    marks = {column: mark for column, mark in marks.items() if mark in causes.columns}
    used = [
        column
        for column in cells.columns
        if header[column]
        or rows[column].null_count() < rows.height
        or (column in marks and rows[marks[column]].null_count() < rows.height)
    ]
    named = kept_names([header[column] for column in used], name) if settings.header else numbered_names(len(used))
    kept = dict(zip(used, named, strict=True))
    texts = [text_or_null(pl.col(column)).alias(given) for column, given in kept.items()]
    return Table(
        names=list(kept.values()),
        rows=numbered(rows.lazy().select(*texts, *marks.values())),
        sha256=sha256,
        notes=notes,
        doubtful={kept[column]: mark for column, mark in marks.items() if column in kept},
    )


def _placed(
    cells: pl.DataFrame, numbers: pl.DataFrame, known: Cells, name: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """
    The reader's cells with the rows that it left out at the end, and the causes beside them.

    Returns:
        The cells, the same as numbers, and a column `_bi_doubtful_{place}` (String) for each column with a cause.

    Raises:
        InputRefused: The reader's columns are not those of the sheet's XML: a cause could be put beside another cell.
    """
    if not (known.causes or known.hidden):
        return cells, numbers, pl.DataFrame()
    first, last = known.columns or (0, -1)
    if last - first + 1 != cells.width or known.height < cells.height:
        raise InputRefused(f"{name}: the sheet's cells cannot be told apart with certainty", hint=_HINT)
    missing = known.height - cells.height
    if missing:
        cells = pl.concat([cells, cells.clear(missing)])
        numbers = pl.concat([numbers, numbers.clear(missing)])
    by_column: dict[int, list[str | None]] = {}
    for (row, column), cause in known.causes.items():
        if not first <= column <= last:
            # Beside the table, in a column that holds no value at all.
            continue
        by_column.setdefault(column - first, [None] * known.height)[row] = cause
    causes = {f"_bi_doubtful_{place}": by_column[place] for place in sorted(by_column)}
    return cells, numbers, pl.DataFrame(causes, schema=dict.fromkeys(causes, pl.String()))


def _with_rounded(cells: pl.DataFrame, numbers: pl.DataFrame, causes: pl.DataFrame) -> pl.DataFrame:
    """The causes, and one more: numbers of more digits than a workbook keeps."""
    for place, column in enumerate(cells.columns):
        long = (numbers[column].is_not_null() & cells[column].str.contains(_LONG_NUMBER)).fill_null(value=False)
        if not long.any():
            continue
        mark = f"_bi_doubtful_{place}"
        rounded = cells.select(pl.when(long).then(pl.lit(INEXACT)).alias(mark))[mark]
        if mark in causes.columns:
            rounded = causes.select(pl.coalesce(mark, rounded).alias(mark))[mark]
        causes = causes.with_columns(rounded) if causes.width else rounded.to_frame()
    return causes


def _without_hidden(keep: pl.Expr, known: Cells, name: str, choice: str | None) -> tuple[pl.Expr, tuple[str, ...]]:
    """
    What is kept of a sheet with hidden rows, and what is said of it.

    Raises:
        InputRefused: Nobody said what to do with them.
    """
    hidden = sorted(known.hidden)
    if choice is None:
        raise InputRefused(
            f"{name} has {len(hidden)} hidden or filtered-out rows (the first is row {hidden[0] + 1} of the sheet)",
            hint='set [input] hidden_rows = "take" or "leave"',
        )
    if choice == "take":
        return keep, (f"{len(hidden)} hidden rows of the sheet are taken",)
    return keep & ~pl.col("_bi_sheet_row").is_in(hidden), (f"{len(hidden)} hidden rows of the sheet are left out",)


def _not_installed(name: str) -> InputRefused:
    return InputRefused(
        f"{name} is a workbook, and the part that reads workbooks is not installed",
        hint="pip install 'bulkissue[xlsx]', or save the sheet as CSV",
    )


def _values(path: Path, ending: str, name: str, sheet: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A sheet's cells as text from its first row, and the same read as booleans."""
    try:
        import fastexcel
    except ImportError as trouble:
        raise _not_installed(name) from trouble
    given = path.suffix.lower()
    try:
        # By its path it is read as what its name says, by its bytes as what it is.
        book = fastexcel.read_excel(path if _ALIKE.get(given, given) == ending else path.read_bytes())
        # skip_rows=0 keeps blank rows on top, so that both readings have the same rows, and the sheet's own numbers.
        cells = book.load_sheet(sheet, header_row=None, skip_rows=0, dtypes="string").to_polars()
        # Read as booleans, a number is true or false and a text is null; nothing else tells them apart.
        numbers = book.load_sheet(sheet, header_row=None, skip_rows=0, dtypes="boolean").to_polars()
    except fastexcel.FastExcelError as trouble:
        secret = "password" in str(trouble)
        raise InputRefused(
            f"{name} {'has a password' if secret else 'cannot be read as a workbook'}", hint=_HINT
        ) from trouble
    return cells, numbers


def _chosen(path: Path, ending: str, name: str, chosen: str | int | None) -> tuple[str, Cells]:
    """
    The sheet to read, and what is to be known of its cells: the one that the job names, or the only visible one that
    has any.
    """
    sheets_of, cells_of, _ = _FORMATS[ending]
    sheets = sheets_of(path)
    names = [sheet.name for sheet in sheets]
    if isinstance(chosen, int) and 1 <= chosen <= len(names):
        looked = [names[chosen - 1]]
    elif chosen in names:
        looked = [str(chosen)]
    elif chosen is not None:
        raise InputRefused(
            f"{name} has no sheet {chosen!r}: its sheets are {', '.join(names)}",
            hint="[input] sheet is a sheet's name, or its number from 1",
        )
    else:
        looked = [sheet.name for sheet in sheets if sheet.visible]
    found = {sheet: cells_of(path, sheet) for sheet in (names if ending == ".xls" else looked)}
    for sheet, cells in found.items():
        # A reader holds a place for each; that of .xls reads all sheets.
        if cells.area > MOST_CELLS:
            raise InputRefused(
                f"{name}: the cells of sheet {sheet!r} reach over {cells.height:,} rows and "
                f"{cells.area // cells.height:,} columns, which are more than {MOST_CELLS:,} places",
                hint="delete the cells beside and below the table, or save the sheet as CSV",
            )
    filled = [sheet for sheet in looked if found[sheet].height]
    if not filled:
        raise InputRefused(f"{name} has no sheet with data")
    if len(filled) > 1:
        raise InputRefused(
            f"{name} has {len(filled)} sheets with cells: {', '.join(filled)}",
            hint=f'say which one: [input] sheet = "{filled[0]}"',
        )
    return filled[0], found[filled[0]]
