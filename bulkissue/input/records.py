"""
The lines of a text file become rows: records of as many fields as the header, or a reason why not.

A file without quotes is split by polars, line by line. One in which every line is proven to be one whole record goes
through polars' CSV reader, any other one with quotes through Python's csv module. It must never lose a row without a
word: a line with too few or too many fields is a rejected row, and a quote that may have swallowed other lines
refuses the file or rejects its row.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from bulkissue.errors import InputRefused
from bulkissue.files import room_for
from bulkissue.input.tables import OWN_MESSAGE, OWN_REASON, text_or_null

_ROWS = 100_000  # rows held at once where Python reads
_RECORD_LINES = 1000  # a cell with more lines than this is a quote that was never closed
_ESCAPED = 'if backslashes escape quotes in this file, set [input] escape = "\\\\"'
_LONGEST_CELL = 1 << 24  # characters, where Python reads; the csv module holds four bytes for each


@dataclass(frozen=True, slots=True)
class Layout:
    """
    How a text file begins.

    Attributes:
        delimiter: One character.
        header: The fields of the first line that is not blank, as written.
        lines: How many lines there are up to and with the column names, where there are names; else before the first
            row.
    """

    delimiter: str
    header: list[str]
    lines: int


def unquoted(text: Path, names: Sequence[str], layout: Layout) -> pl.LazyFrame:
    """The rows of a file without quotes: each line that holds more than delimiters is one."""
    width = len(names)
    fields = [pl.col(f"_bi_field_{place}") for place in range(width)]
    beyond = pl.col(f"_bi_field_{width}")
    ragged = fields[-1].is_null() | beyond.is_not_null()
    # Null where it is not ragged, as its message is then: a text for each row would cost as much as reading it.
    count = pl.when(ragged).then(
        pl.sum_horizontal(field.is_not_null().cast(pl.UInt32) for field in fields)
        + beyond.is_not_null().cast(pl.UInt32)
        + beyond.str.count_matches(layout.delimiter, literal=True).fill_null(0)
    )
    line = pl.col("_bi_line")
    return (
        pl.scan_lines(text, name="_bi_line", row_index_name="_bi_line_number", row_index_offset=1, glob=False)
        .slice(layout.lines)
        .with_columns(line.str.strip_prefix("\ufeff") if layout.lines == 0 else line)
        .filter(line.str.strip_chars(layout.delimiter) != "")
        .with_columns(
            line.str.splitn(layout.delimiter, width + 1).struct.rename_fields(
                [f"_bi_field_{place}" for place in range(width + 1)]
            )
        )
        .unnest("_bi_line")
        .select(
            *[text_or_null(field).alias(name) for field, name in zip(fields, names, strict=True)],
            pl.when(ragged).then(pl.lit("validate.ragged_line")).alias(OWN_REASON),
            pl.format(
                "line {} has {} {}, the header has {}",
                pl.when(ragged).then("_bi_line_number"),
                count,
                pl.when(count == 1).then(pl.lit("field")).otherwise(pl.lit("fields")),
                pl.lit(width),
            ).alias(OWN_MESSAGE),
        )
    )


def whole_lines(text: Path, names: Sequence[str], layout: Layout) -> pl.LazyFrame | None:
    """
    The rows of a file with quotes in which each line is proven to be one record as wide as the header; else None.

    A quote opens only where a field begins and closes only where it ends, so that no reader can take the line for
    anything else. The file must have no carriage return without a newline behind it.
    """
    if not layout.delimiter.isascii():
        return None
    delimiter = f"\\x{ord(layout.delimiter):02x}"
    field = f'(?:"(?:[^"]|"")*"|[^"{delimiter}]*)'
    whole = f"^{field}(?:{delimiter}{field}){{{len(names) - 1}}}$"
    line = pl.col("_bi_line")
    lines = pl.scan_lines(text, name="_bi_line", glob=False).slice(layout.lines)
    proof = lines.select(((line == "") | line.str.contains(whole)).all().alias("whole"), pl.len().alias("lines"))
    try:
        proven, count = proof.collect(engine="streaming").row(0)
    except pl.exceptions.ComputeError:  # more columns than one regular expression can hold
        return None
    rows = pl.scan_csv(
        text,
        has_header=False,
        skip_lines=layout.lines,
        schema=dict.fromkeys(names, pl.String()),
        separator=layout.delimiter,
        quote_char='"',
        missing_columns="insert",  # it counts the fields of the first line, which may be blank
        glob=False,
    )
    if not proven or rows.select(pl.len()).collect(engine="streaming").item() != count:
        return None
    cells = [text_or_null(pl.col(name)).alias(name) for name in names]
    # Blank lines and rows of nothing but delimiters are no rows.
    return rows.select(cells).filter(pl.any_horizontal(pl.col(name).is_not_null() for name in names))


def quoted(
    text: Path, name: str, names: Sequence[str], layout: Layout, *, folder: Path, identifiers: dict[int, str]
) -> pl.LazyFrame:
    """
    The rows of a file with quotes, by way of Parquet pieces in `folder`: no more than `_ROWS` are held at once.

    Args:
        text: The file, UTF-8.
        name: What it is called in messages.
        names: Its columns.
        layout: How it begins.
        folder: A private folder.
        identifiers: The places of the columns that say who a customer is, and the type that each holds; `identifier`
            where that is another column's to say.

    Raises:
        InputRefused: See `_records`.
    """
    schema = dict.fromkeys([*names, OWN_REASON, OWN_MESSAGE], pl.String())
    start = len(list(folder.iterdir()))
    pieces: list[Path] = []
    records = _records(text, name, len(names), layout, identifiers)
    with _long_cells():
        while batch := list(islice(records, _ROWS)):
            piece = folder / f"{start + len(pieces):08}.parquet"
            columns = zip(schema, zip(*batch, strict=True), strict=True)
            frame = pl.DataFrame([pl.Series(column, values, pl.String) for column, values in columns])
            with room_for(piece):
                frame.write_parquet(piece, compression="lz4", statistics=False)
            pieces.append(piece)
    rows = pl.scan_parquet(pieces, glob=False) if pieces else pl.LazyFrame(schema=schema)
    cells = [text_or_null(pl.col(column)).alias(column) for column in names]
    return rows.select(*cells, OWN_REASON, OWN_MESSAGE)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the csv module read cells of up to `_LONGEST_CELL` characters; its limit is one for the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(
    text: Path, name: str, width: int, layout: Layout, identifiers: dict[int, str]
) -> Iterator[list[str | None]]:
    """
    Every record's cells, its reason and its message.

    Raises:
        InputRefused: A quote reaches over lines and is not closed where its field ends, or the record it makes has
            too many lines or not as many fields as the header: what it swallowed cannot be told from what it holds.
    """
    last = [""]
    with text.open(encoding="utf-8-sig", newline="") as file:
        for _ in range(layout.lines):
            next(file)
        reader = csv.reader(_remembered(file, last), delimiter=layout.delimiter, strict=True)
        start = end = layout.lines
        while True:
            try:
                for record in reader:
                    start, end = end + 1, layout.lines + reader.line_num
                    if not any(record):  # a blank line, or nothing but delimiters
                        continue
                    if start == end and len(record) == width:
                        yield [*record, None, None]
                    elif start == end:
                        fields = "1 field" if len(record) == 1 else f"{len(record)} fields"
                        message = f"line {start} has {fields}, the header has {width}"
                        yield _fitted(record, width, "validate.ragged_line", message)
                    elif len(record) != width or end - start >= _RECORD_LINES:
                        raise _runaway(name, start, end)
                    elif _could_be_several(record, layout.delimiter, identifiers):
                        message = (
                            f"lines {start} to {end} are one quoted record, but more than one of them names a "
                            "customer: is a quote missing?"
                        )
                        yield _fitted(record, width, "validate.misquoted_line", message)
                    else:
                        yield [*record, None, None]
            except csv.Error as trouble:  # the reader goes on with the next line
                start, end = end + 1, layout.lines + reader.line_num
                if "field limit" in str(trouble):
                    raise InputRefused(
                        f"{name}: a cell that begins on line {start} has more than {csv.field_size_limit()} characters",
                        hint=f"see whether a quote is missing on line {start}",
                    ) from trouble
                alone = _leniently(last[0], layout.delimiter) if start == end else None
                if alone is None:
                    raise _runaway(name, start, end) from trouble
                message = f"line {start} has a quote that is closed in the middle of a field"
                message += f"; {_ESCAPED}" if '\\"' in last[0] else ""
                yield _fitted(alone, width, "validate.misquoted_line", message)
            else:
                return


def _remembered(lines: Iterable[str], last: list[str]) -> Iterator[str]:
    for line in lines:
        last[0] = line
        yield line


def _fitted(record: list[str], width: int, reason: str, message: str) -> list[str | None]:
    """As many cells as there are columns."""
    return [*record[:width], *[None] * (width - len(record)), reason, message]


#: What a cell looks like that names a customer, whatever stands beside it.
_PLAIN = {
    "mobile": re.compile(r"\s*['\"]*(?:\+|\()?(?:[0-9][ ().\-/]*){7,17}['\"]*\s*"),
    "email": re.compile(r"\s*['\"<]*[^@\s]+@[^@\s]+\.[^@\s]+\s*"),
}
#: What could be an external id or the service's own, or a word or a number of a longer text.
_WORD = re.compile(r"\s*['\"]*[^\s'\"]{1,50}['\"]*\s*")


def _could_be_several(record: list[str], delimiter: str, identifiers: dict[int, str]) -> bool:
    """
    Whether a line of a record over several lines, behind its first, would be a customer of its own.

    That is what a forgotten quote makes of two customers, where the next quote happens to fit. A word names one only
    where the line has as many fields as the header.
    """
    _, *behind = re.split(r"\r\n|\r|\n", delimiter.join(record))
    for cells in (line.split(delimiter) for line in behind):
        for place, kind in identifiers.items():
            cell = cells[place] if place < len(cells) else ""
            plain = _PLAIN.values() if kind == "identifier" else [_PLAIN[kind]] if kind in _PLAIN else []
            if any(pattern.fullmatch(cell) for pattern in plain):
                return True
            if kind not in _PLAIN and len(cells) == len(record) and _WORD.fullmatch(cell):
                return True
    return False


def _leniently(line: str, delimiter: str) -> list[str] | None:
    """The fields of one line with misplaced quotes; None where a quote stays open at its end."""
    reader = csv.reader([line, "\n"], delimiter=delimiter)
    record = next(reader)
    return record if reader.line_num == 1 else None


def _runaway(name: str, start: int, end: int) -> InputRefused:
    return InputRefused(
        f"{name}: a quote that opens on line {start} is not closed where its field ends; it reaches to line {end}, "
        "and the rows between cannot be told from its text",
        hint=f"close or remove the quote on line {start}, and write a quote inside a quoted field twice",
    )
