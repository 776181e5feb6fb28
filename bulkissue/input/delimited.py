"""
Text files: CSV, TSV and their kin, whatever their encoding and delimiter, as tables of text.

A file without quotes is split by polars, line by line; one with quotes goes through Python's csv module. It must
never lose a row without a word: a line with too few or too many fields is a rejected row, and a quote that may have
swallowed other lines refuses the file or rejects its row.
"""

import codecs
import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from bulkissue.errors import InputRefused
from bulkissue.files import room_for
from bulkissue.input.column_mapping import kept_names
from bulkissue.input.tables import OWN_MESSAGE, OWN_REASON, OWN_ROW, Table, numbered_names
from bulkissue.job.model import InputSection

_PIECE = 1 << 20  # bytes
_HEAD = 1 << 20  # bytes in which the column names must end
_ROWS = 100_000  # rows held at once where Python reads
_SAMPLE_LINES = 100
_RECORD_LINES = 1000  # a cell with more lines than this is a quote that was never closed
_DELIMITERS = ",;\t|"  # a comma where they fit equally well
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Legacy encodings that are looked for. All of them keep ASCII as it is.
_LEGACY = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp874", "cp932", "gb18030", "big5", "cp949"),
]
_WESTERN = set("àáâãäåæçèéêëìíîïñòóôõöøùúûüßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜœŒ“”‘’–—…€°ºª«»·´¡¿®™ \xa0")


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
    survey = _survey(path)
    sha256 = survey.sha256
    encoding, notes, guessed = _encoding(path, name, survey, settings.encoding)
    text = path
    if encoding != "utf-8":
        text = folder / f"{len(list(folder.iterdir()))}.txt"
        _to_utf8(path, name, text, encoding)
        survey = _survey(text)
    if survey.nul is not None:
        raise InputRefused(
            f"{name}: line {_line_at(text, survey.nul)} has a zero byte; this is no text, or its end was never written",
            hint="export it again; for UTF-16 without a byte-order mark set [input] encoding",
        )
    layout = _layout(text, name, settings)
    names = kept_names(layout.header, name) if settings.header else numbered_names(len(layout.header))
    if settings.header_row > 1:
        notes = (*notes, f"the lines above line {settings.header_row} are left out")
    if survey.quotes or survey.lone_returns:
        rows = _quoted(text, name, names, layout, folder)
    else:
        rows = _unquoted(text, names, layout)
    return Table(names, rows, sha256, encoding, layout.delimiter, guessed=guessed, notes=notes)


# --- bytes and encodings


@dataclass(frozen=True, slots=True)
class _Survey:
    """
    What one pass over the bytes tells.

    Attributes:
        sha256: Of all of them.
        not_utf8: Where they first are no UTF-8, else None.
        foreign: Lines from there on with bytes beyond ASCII, at most 64 KiB.
        whole_lines: How many lines with bytes beyond ASCII are valid UTF-8, and
        broken_lines: how many are not; both 0 where all of the file is.
        nul: Where the first zero byte is, else None.
        quotes: Whether there is any double quote.
        lone_returns: Whether there is a carriage return without a newline behind it.
    """

    sha256: str
    not_utf8: int | None
    foreign: bytes
    whole_lines: int
    broken_lines: int
    nul: int | None
    quotes: bool
    lone_returns: bool


def _survey(path: Path) -> _Survey:
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    not_utf8 = nul = None
    foreign = b""
    quotes = False
    returns = pairs = at = 0
    last = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            pending = len(decoder.getstate()[0])
            if not_utf8 is None and (pending or not piece.isascii()):
                try:
                    decoder.decode(piece)
                except UnicodeDecodeError as trouble:
                    not_utf8 = at - pending + trouble.start
                    foreign = b"\n".join(re.findall(rb"[^\r\n]*[\x80-\xff][^\r\n]*", piece))[: 1 << 16]
            if nul is None and (place := piece.find(b"\0")) >= 0:
                nul = at + place
            quotes = quotes or b'"' in piece
            if b"\r" in piece or last == b"\r":
                returns += piece.count(b"\r")
                pairs += (last + piece).count(b"\r\n")
            last = piece[-1:]
            at += len(piece)
    if not_utf8 is None and decoder.getstate()[0]:
        not_utf8 = at - len(decoder.getstate()[0])
    whole_lines, broken_lines = (0, 0) if not_utf8 is None else _lines_by_utf8(path)
    return _Survey(
        digest.hexdigest(), not_utf8, foreign, whole_lines, broken_lines, nul, quotes, lone_returns=returns != pairs
    )


def _lines_by_utf8(path: Path) -> tuple[int, int]:
    """How many lines with bytes beyond ASCII are valid UTF-8, and how many are not."""
    whole = broken = 0
    with path.open("rb") as file:
        while line := file.readline(_PIECE):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                broken += 1
            else:
                whole += 1
    return whole, broken


def _encoding(path: Path, name: str, survey: _Survey, named: str | None) -> tuple[str, tuple[str, ...], bool]:
    """
    The file's encoding, `utf-8` where nothing has to be written anew, what was assumed, and whether it was guessed.

    Raises:
        InputRefused: It is UTF-8, as it says or as most of its lines beyond ASCII are, but for some bytes.
    """
    if named is not None:
        encoding = codecs.lookup(named).name
        if encoding not in {"utf-8", "utf-8-sig"}:
            return encoding, (), False
        if survey.not_utf8 is not None:
            raise _undecodable(path, name, survey.not_utf8, "utf-8")
        return "utf-8", (), False
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            if encoding == "utf-8" and survey.not_utf8 is not None:
                raise _undecodable(path, name, survey.not_utf8, "utf-8, as its byte-order mark says")
            return encoding, (), False
    if survey.nul is not None and len(head) > 1:
        zeros = [head[start::2].count(0) / len(head[start::2]) for start in (0, 1)]
        for encoding, mostly, hardly in (("utf-16-le", zeros[1], zeros[0]), ("utf-16-be", zeros[0], zeros[1])):
            if mostly > 0.4 and hardly < 0.1:
                return (
                    encoding,
                    (f"read as {encoding}: every other byte is zero, and there is no byte-order mark",),
                    False,
                )
    if survey.not_utf8 is None:
        return "utf-8", (), False
    if survey.whole_lines > survey.broken_lines / 3:
        # A legacy encoding hardly ever makes whole lines of valid UTF-8: these are, so the others are damaged.
        raise InputRefused(
            f"{name}: line {_line_at(path, survey.not_utf8)} has bytes that are not UTF-8, and other lines are UTF-8",
            hint="mend that line; or set [input] encoding, if the whole file is in another one",
        )
    encoding = _guess(survey.foreign)
    return encoding, (f"read as {encoding}, by its looks; if names come out wrong, set [input] encoding",), True


def _guess(sample: bytes) -> str:
    """The legacy encoding that lines beyond ASCII are most likely in."""
    high = re.findall(rb"[\x80-\xff]+", sample)
    # In western names one letter in a word is beyond ASCII; elsewhere whole words are.
    if len(high) > sum(map(len, high)) / 2 and set(b"".join(high).decode("cp1252", "replace")) <= _WESTERN:
        return "cp1252"
    from charset_normalizer import from_bytes  # takes a while to load, and few files need it

    best = from_bytes(sample, cp_isolation=_LEGACY).best()
    return "cp1252" if best is None else codecs.lookup(best.encoding).name


def _to_utf8(path: Path, name: str, to: Path, encoding: str) -> None:
    """
    Write the file anew as UTF-8 without a byte-order mark, in pieces.

    Raises:
        InputRefused: It has bytes that its encoding cannot mean.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    with path.open("rb") as source, to.open("wb") as target:
        first = True
        while True:
            piece = source.read(_PIECE)
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as trouble:
                lines += trouble.object[: trouble.start].decode(encoding, "replace").count("\n")
                break
            lines += text.count("\n")
            target.write((text.removeprefix("\ufeff") if first else text).encode())
            first = first and not text
            if not piece:
                return
    raise InputRefused(
        f"{name}: line {lines} has bytes that are not {encoding}",
        hint='set [input] encoding to what the file was written in, or save it as "CSV UTF-8"',
    )


def _undecodable(path: Path, name: str, at: int, encoding: str) -> InputRefused:
    return InputRefused(
        f"{name}: line {_line_at(path, at)} has bytes that are not {encoding}",
        hint='set [input] encoding to what the file was written in, for example "cp1252"',
    )


def _line_at(path: Path, at: int) -> int:
    """The number of the line that holds the byte `at`."""
    line = 1
    with path.open("rb") as file:
        while at > 0 and (piece := file.read(min(at, _PIECE))):
            line += piece.count(b"\n")
            at -= len(piece)
    return line


# --- delimiter and column names


@dataclass(frozen=True, slots=True)
class _Layout:
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


def _layout(text: Path, name: str, settings: InputSection) -> _Layout:
    with text.open("rb") as file:
        head = file.read(_HEAD)
        whole = not file.read(1)
    lines = list(io.StringIO(head.decode("utf-8-sig", "ignore"), newline=""))
    if not whole:
        lines.pop()  # cut off
        if not lines:
            raise InputRefused(f"{name}: the first line does not end within {_HEAD >> 20} MiB; this is no table")
    skipped = 0
    said = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE) if lines else None  # Excel's own first line
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
    return _Layout(delimiter, header, skipped + (reader.line_num if settings.header else 0))


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


# --- rows


def _unquoted(text: Path, names: Sequence[str], layout: _Layout) -> pl.LazyFrame:
    """The rows of a file without quotes: each line that is not blank is one."""
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
    return (
        pl.scan_lines(text, name="_bi_line", row_index_name="_bi_line_number", row_index_offset=1, glob=False)
        .slice(layout.lines)
        .filter(pl.col("_bi_line") != "")
        .with_row_index(OWN_ROW, 1)
        .with_columns(
            pl.col("_bi_line")
            .str.splitn(layout.delimiter, width + 1)
            .struct.rename_fields([f"_bi_field_{place}" for place in range(width + 1)])
        )
        .unnest("_bi_line")
        .select(
            *[pl.when(field != "").then(field).alias(name) for field, name in zip(fields, names, strict=True)],
            pl.col(OWN_ROW).cast(pl.UInt64),
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


def _quoted(text: Path, name: str, names: Sequence[str], layout: _Layout, folder: Path) -> pl.LazyFrame:
    """The rows of a file with quotes, by way of Parquet pieces in `folder`: no more than `_ROWS` are held at once."""
    schema = dict.fromkeys([*names, OWN_REASON, OWN_MESSAGE], pl.String())
    start = len(list(folder.iterdir()))
    pieces: list[Path] = []
    records = _records(text, name, len(names), layout)
    while batch := list(islice(records, _ROWS)):
        piece = folder / f"{start + len(pieces):08}.parquet"
        columns = zip(schema, zip(*batch, strict=True), strict=True)
        frame = pl.DataFrame([pl.Series(column, values, pl.String) for column, values in columns])
        with room_for(piece):
            frame.write_parquet(piece, compression="lz4", statistics=False)
        pieces.append(piece)
    rows = pl.scan_parquet(pieces, glob=False) if pieces else pl.LazyFrame(schema=schema)
    cells = [pl.when(pl.col(column) != "").then(pl.col(column)).alias(column) for column in names]
    return rows.with_row_index(OWN_ROW, 1).select(*cells, pl.col(OWN_ROW).cast(pl.UInt64), OWN_REASON, OWN_MESSAGE)


def _records(text: Path, name: str, width: int, layout: _Layout) -> Iterator[list[str | None]]:
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
                    if start == end and len(record) == width:
                        yield [*record, None, None]
                    elif start == end:
                        if record:
                            fields = "1 field" if len(record) == 1 else f"{len(record)} fields"
                            message = f"line {start} has {fields}, the header has {width}"
                            yield _fitted(record, width, "validate.ragged_line", message)
                    elif len(record) != width or end - start >= _RECORD_LINES:
                        raise _runaway(name, start, end)
                    elif _could_be_several(record, width, layout.delimiter):
                        message = (
                            f"lines {start} to {end} are one quoted record, but each could be one: is a quote missing?"
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


def _could_be_several(record: list[str], width: int, delimiter: str) -> bool:
    """
    Whether every line of a record over several lines has as many delimiters as a row of its own.

    That is what a forgotten quote makes of two customers, where the next quote happens to fit.
    """
    lines = [line for line in re.split(r"\r\n|\r|\n", delimiter.join(record)) if line]
    return all(line.count(delimiter) == width - 1 for line in lines)


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
