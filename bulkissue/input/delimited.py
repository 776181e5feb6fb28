"""
Text files: CSV, TSV and their kin, whatever their encoding and delimiter, as tables of text.

It must never choose a delimiter or column names by which other cells come out than the file means: where it is not
clear, the file is refused.
"""

import csv
import io
import re
from itertools import islice
from pathlib import Path

from bulkissue.errors import InputRefused
from bulkissue.input.column_mapping import find_roles, kept_names
from bulkissue.input.decoding import encoding_of, line_at, survey, write_as_utf8, write_unescaped
from bulkissue.input.records import Layout, quoted, unquoted, whole_lines
from bulkissue.input.tables import Table, numbered, numbered_names
from bulkissue.job.model import InputSection
from bulkissue.outcomes import IDENTIFIER_TYPES

_HEAD = 1 << 20  # bytes in which the column names must end
_SAMPLE_LINES = 100
_DELIMITERS = ",;\t|"  # a comma where they fit equally well


def read_text(path: Path, name: str, settings: InputSection, folder: Path) -> Table:
    """
    Recognise a text file's encoding, delimiter and column names, and split it into rows.

    Wholly blank lines are no rows. A ragged line is a row with `validate.ragged_line`; it keeps what fits its
    columns. A line on which a quote is closed in the middle of a field is a row with `validate.misquoted_line`.

    Args:
        path: The file.
        name: What it is called in messages.
        settings: `[input]`: a named encoding or delimiter rules.
        folder: A private folder for what has to be written in between.

    Raises:
        InputRefused: The file is empty, is no text in its encoding, its column names will not do, or a quote is
            not closed where its record ends.
    """
    seen = survey(path)
    sha256 = seen.sha256
    encoding, notes, guessed = encoding_of(path, name, seen, settings.encoding)
    text = path
    if encoding != "utf-8":
        text = folder / f"{len(list(folder.iterdir()))}.txt"
        write_as_utf8(path, name, text, encoding)
        seen = survey(text)
    if seen.nul is not None:
        raise InputRefused(
            f"{name}: line {line_at(text, seen.nul)} has a zero byte; this is no text, or its end was never written",
            hint="export it again; for UTF-16 without a byte-order mark set [input] encoding",
        )
    if settings.escape is not None:
        plain = folder / f"{len(list(folder.iterdir()))}.txt"
        write_unescaped(text, plain, settings.escape)
        text = plain
    layout = _layout(text, name, settings)
    names = kept_names(layout.header, name) if settings.header else numbered_names(len(layout.header))
    if settings.header_row > 1:
        notes = (*notes, f"the lines above line {settings.header_row} are left out")
    if not seen.quotes and not seen.lone_returns:
        rows = unquoted(text, names, layout)
    else:
        whole = None if seen.lone_returns else whole_lines(text, names, layout)
        if whole is None:
            whole = quoted(text, name, names, layout, folder=folder, identifiers=_identifiers(names, settings))
        rows = whole
    return Table(names, numbered(rows), sha256, encoding, layout.delimiter, guessed=guessed, notes=notes)


def _identifiers(names: list[str], settings: InputSection) -> dict[int, str]:
    """The places of the columns that say who a customer is, and their roles; none where the file will be refused."""
    try:
        columns = find_roles(names, settings.columns, "", ignore=settings.ignore).columns
    except InputRefused:
        return {}
    return {names.index(columns[role]): role for role in (*IDENTIFIER_TYPES, "identifier") if role in columns}


# --- delimiter and column names


def _layout(text: Path, name: str, settings: InputSection) -> Layout:
    with text.open("rb") as file:
        head = file.read(_HEAD)
        whole = not file.read(1)
    lines = list(io.StringIO(head.decode("utf-8-sig", "ignore"), newline=""))
    if not whole:
        lines.pop()  # cut off
        if not lines:
            raise InputRefused(f"{name}: the first line does not end within {_HEAD >> 20} MiB; this is no table")
    skipped = 0
    said = re.fullmatch(r'"?sep=([^"\r\n])"?\s*', lines[0], re.IGNORECASE) if lines else None  # Excel's own first line
    if said:
        skipped = 1
    skipped = max(skipped, settings.header_row - 1)
    if settings.delimiter is not None:
        delimiter = settings.delimiter
    elif said:
        delimiter = said[1]
    elif text.suffix == ".tsv" or name.lower().endswith(".tsv"):
        delimiter = "\t"
    else:
        delimiter = _recognised_delimiter(lines[skipped:])
    reader = csv.reader(lines[skipped:], delimiter=delimiter, strict=True)
    try:
        header = next((record for record in reader if record), None)
    except csv.Error as trouble:
        raise InputRefused(
            f"{name}: the line of column names has a quote that is not closed where its field ends",
            hint="close the quote, or remove it",
        ) from trouble
    if header is None:
        if skipped:
            raise InputRefused(f"{name} has nothing from line {skipped + 1} on", hint="check [input] header_row")
        raise InputRefused(f"{name} is empty", hint="the first line must be the column names")
    return Layout(delimiter, header, skipped + (reader.line_num if settings.header else 0))


def _recognised_delimiter(lines: list[str]) -> str:
    """The one by which most of the first rows have as many fields as the header, more than one; else a comma."""
    best, best_score = ",", (0.0, 1)
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in islice(csv.reader(lines, delimiter=delimiter), _SAMPLE_LINES) if row]
        except csv.Error:  # a field without an end: not this one
            continue
        if widths and widths[0] > 1:
            score = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best
