"""
Intake: the input files become one table of text, every row with its file and number.

It must never lose a row, change a cell or guess which column says who a customer is: what cannot be read for
certain is a rejected row, or refuses the file.
"""

import codecs
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from bulkissue.errors import InputRefused
from bulkissue.files import replacing_path, room_for, sha256
from bulkissue.input import delimited, lineage, tables
from bulkissue.input.column_mapping import Form, find_roles
from bulkissue.input.json_lines import read_json_lines
from bulkissue.input.lineage import Kind
from bulkissue.input.sheets.workbook import is_workbook, read_workbook
from bulkissue.input.tables import OWN_MESSAGE, OWN_REASON, Table
from bulkissue.input.unpacking import is_packed, unpack
from bulkissue.job.model import InputSection
from bulkissue.outcomes import IDENTIFIER_TYPES

#: Rows in a row group of input.parquet. Fixed, so that the same input gives the same bytes.
_ROW_GROUP = 1 << 17
#: So far down, and in files of so many bytes, column names are looked for where the first line has none.
_LOWEST_NAMES, _LARGEST_WITH_TITLE = 8, 50_000_000

#: How files begin that are text or bytes, and no table that is read here; in any case.
_FOREIGN = (
    (rb"%PDF", "a PDF"),
    (rb"{\\rtf", "a text document (RTF)"),
    (rb"\s*<(!doctype html|html|head|body|table|meta|style)", "an HTML page"),
    (rb"\s*<\?xml", "an XML file"),
)
_WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """
    One input file, as it was taken in.

    Attributes:
        name: Its path from the job file's folder, with forward slashes.
        path: Where it is.
        kind: `failure_ledger` where the rows keep the lineage they carry.
        rows: How many it has. In `input.parquet` files follow each other in order.
        sha256: Of its bytes.
        size: In bytes.
        encoding: Of a text file, else empty.
        delimiter: Of a text file, else empty.
        form: How it says its identifiers.
        columns: Our role to its header.
        notes: What was assumed, for the user.
        runs: The runs a ledger came from, at most a few.
        marked: Whether it begins with UTF-8's byte-order mark.
    """

    name: str
    path: Path
    kind: Kind
    rows: int
    sha256: str
    size: int
    encoding: str
    delimiter: str
    form: Form
    columns: dict[str, str]
    notes: tuple[str, ...]
    runs: tuple[str, ...]
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Intake:
    """
    All input files.

    Attributes:
        files: In the order they were given.
        columns: The users' columns, in the order they first appear.
        rows: How many there are in all.
    """

    files: tuple[SourceFile, ...]
    columns: tuple[str, ...]
    rows: int


def take_in(
    paths: Sequence[Path],
    *,
    base: Path,
    settings: InputSection,
    target: str,
    out: Path,
    originals: Callable[[str], Path | None] = lambda _: None,
) -> Intake:
    """
    Read the input files and write `out`, the input as it was read.

    `out` holds the users' columns (String, as written; null where empty or where the file does not have the column),
    `_bi_source_file` (String), `_bi_row` (UInt64, from 1 in each file), `_bi_reason` and `_bi_message` (String; why a
    row cannot be read, else null) and `_bi_attempts` (UInt32; what a failure ledger's row had before). The same input
    gives the same bytes. Memory does not grow with the files, but for workbooks, which Excel limits, and the row
    numbers of failure ledgers.

    Args:
        paths: The files; one that is given twice is taken once.
        base: The job file's folder, from which files are named.
        settings: `[input]`.
        target: What this run issues, as in `_bi_target`: its own success ledgers are refused.
        out: The Parquet file to write. Its folder also takes the temporary files.
        originals: The `input.parquet` of an earlier run by its id, for its failure ledger; None where it is gone.

    Raises:
        InputRefused: A file cannot be read for certain; see `csvtext`, `tables`, `headers` and `lineage`. Nothing is
            written then.
    """
    if not paths:
        raise InputRefused("there is no input file", hint="set [input] paths in the job file, or give --input")
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        unique = list({path.resolve(): path for path in reversed(paths)}.values())[::-1]
        read = [_read(path, base, settings, target, Path(folder), originals=originals) for path in unique]
        columns = tuple(dict.fromkeys(name for part in read for name in part.names))
        frame = pl.concat([_aligned(part, columns) for part in read])
        with replacing_path(out) as partial:
            _write(frame, partial, read)
            _refuse_changed(read)
            written = pl.scan_parquet(partial, glob=False)
            if any(part.file.kind == "failure_ledger" for part in read):
                _refuse_twice(written, read)
            total = int(written.select(pl.len()).collect().item())
        counts = [_count(part.rows) for part in read[:-1]]
    counts.append(total - sum(counts))
    sources = tuple(replace(part.file, rows=rows) for part, rows in zip(read, counts, strict=True))
    return Intake(sources, columns, total)


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that was opened: `file` without its count, the users' columns, the finished rows, what the disk said."""

    file: SourceFile
    names: list[str]
    rows: pl.LazyFrame
    seen: os.stat_result


def _read(
    path: Path,
    base: Path,
    settings: InputSection,
    target: str,
    folder: Path,
    *,
    originals: Callable[[str], Path | None],
) -> _Part:
    name = Path(os.path.relpath(path, base)).as_posix()
    try:
        seen = path.stat()
        if not path.is_file():
            raise InputRefused(f"{name} is no file", hint="name files, or a pattern such as inbox/*.csv")
        with path.open("rb") as opened:
            head = opened.read(4)
    except FileNotFoundError as trouble:
        raise InputRefused(f"{name} does not exist", hint="paths are relative to the job file") from trouble
    except OSError as trouble:
        raise InputRefused(f"{name} cannot be read: {trouble.strerror}") from trouble
    try:
        table = _table(path, name, head, settings, folder)
        own = lineage.own_columns(table.names, name)
        verdict = lineage.judge(table.rows, own, name, target) if own else lineage.Verdict()
        names = [column for column in table.names if column not in own]
        roles = find_roles([*names, *table.left_out], settings.columns, name, ignore=settings.ignore)
    except InputRefused:
        _refuse_title(path, name, head, settings, folder)
        raise
    for role, column in roles.columns.items():
        if column in table.left_out:
            raise InputRefused(
                f'{name}: column "{column}" is the {role}, but holds {table.left_out[column]}, which is no text',
                hint="write the column as text",
            )
    healed = lineage.Healed(table.rows, {}, ())
    if verdict.kind != "failure_ledger":
        rows = lineage.untraced(table.rows, name)
    elif "_bi_run" in own:
        healed = lineage.healed(lineage.traced(table.rows, own, name), names, name, originals)
        rows = healed.rows
    else:
        rows = lineage.traced(table.rows, own, name)
    file = SourceFile(
        name=name,
        path=path,
        kind=verdict.kind,
        rows=0,
        sha256=table.sha256,
        size=seen.st_size,
        encoding=table.encoding,
        delimiter=table.delimiter,
        form=roles.form,
        columns=roles.columns,
        notes=(*table.notes, *verdict.notes, *healed.notes, *roles.notes),
        runs=verdict.runs,
        marked=head.startswith(codecs.BOM_UTF8),
    )
    return _Part(file, names, _with_verdict(rows, table, roles.columns, names, healed.vouched), seen)


@contextmanager
def _panics_refused(name: str) -> Iterator[None]:
    """
    Refuse a file that makes a reader in Rust run into what its author thought impossible.

    Raises:
        InputRefused: It did. That is no `Exception`, and has a class of its own in each library.
    """
    try:
        yield
    except BaseException as trouble:
        if type(trouble).__name__ != "PanicException":
            raise
        raise InputRefused(f"{name} cannot be read: it is damaged", hint="write it again") from None


def _refuse_title(path: Path, name: str, head: bytes, settings: InputSection, folder: Path) -> None:
    """
    Say which line has the column names, where the first one has not.

    Raises:
        InputRefused: A line below has them: what stands above looks like a title.
    """
    if not settings.header or settings.header_row != 1 or path.stat().st_size > _LARGEST_WITH_TITLE:
        return
    for row in range(2, _LOWEST_NAMES + 1):
        lower = settings.model_copy(update={"header_row": row})
        try:
            table = _table(path, name, head, lower, folder)
            find_roles(table.names, settings.columns, name, ignore=settings.ignore)
        except InputRefused:
            continue
        raise InputRefused(
            f"{name}: line {row} looks like the column names, and what stands above it like a title",
            hint=f"set [input] header_row = {row}",
        )


def read_table(path: Path, name: str, settings: InputSection, folder: Path) -> Table:
    """
    One file as a table of text, without a word about which columns say who a customer is.

    Args:
        path: The file.
        name: What it is called in messages.
        settings: `[input]`.
        folder: A private folder for what has to be written in between; it must outlive the table.

    Raises:
        InputRefused: It cannot be read for certain.
    """
    try:
        with path.open("rb") as opened:
            head = opened.read(4)
    except OSError as trouble:
        raise InputRefused(f"{name} cannot be read: {trouble.strerror}") from trouble
    return _table(path, name, head, settings, folder)


def _table(path: Path, name: str, head: bytes, settings: InputSection, folder: Path) -> Table:
    """Read a file as what its first bytes say it is, whatever its name."""
    if is_packed(head, path):
        inner = unpack(path, name, head, folder)
        with inner.path.open("rb") as opened:
            first = opened.read(4)
        if is_packed(first, inner.path):
            raise InputRefused(f"{name} is packed twice", hint="unpack it first")
        return replace(_table(inner.path, name, first, settings, folder), sha256=sha256(path))
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return read_json_lines(path, name, folder)
    if head == b"PAR1" or path.suffix.lower() == ".parquet":
        with _panics_refused(name):
            return tables.read_parquet(path, name)
    if is_workbook(head):
        with _panics_refused(name):
            return read_workbook(path, name, settings)
    with path.open("rb") as opened:
        beginning = opened.read(4096).removeprefix(codecs.BOM_UTF8)
    for pattern, what in _FOREIGN:
        if re.match(pattern, beginning, re.IGNORECASE):
            raise InputRefused(f"{name} is {what}", hint="save it as CSV, Parquet or .xlsx")
    if path.suffix.lower() in _WORKBOOKS:
        raise InputRefused(f"{name} is no workbook", hint="save it again as .xlsx, or give it the ending of what it is")
    return delimited.read_text(path, name, settings, folder)


def _with_verdict(
    rows: pl.LazyFrame, table: Table, columns: dict[str, str], names: Sequence[str], vouched: dict[str, str]
) -> pl.LazyFrame:
    """
    The columns of `input.parquet` for one file.

    A cell not known as written rejects its row if it says who, unless an earlier run has read the very same.
    """
    deciding = [columns[role] for role in (*IDENTIFIER_TYPES, "identifier") if role in columns]
    reason, message = pl.col(OWN_REASON), pl.col(OWN_MESSAGE)
    for column in deciding:
        if column in table.doubtful:
            cause = pl.col(table.doubtful[column])
        elif table.guessed:
            guessed = f"has letters beyond ASCII, and the file's encoding was guessed ({table.encoding})"
            cause = pl.when(pl.col(column).str.contains(r"[^\x00-\x7f]")).then(pl.lit(guessed))
        else:
            continue
        sure = pl.col(vouched[column]) if column in vouched else pl.lit(value=False)
        bad = cause.is_not_null() & reason.is_null() & ~sure
        message = pl.when(bad).then(pl.format('the cell in column "{}" {}', pl.lit(column), cause)).otherwise(message)
        reason = pl.when(bad).then(pl.lit("validate.unreadable_value")).otherwise(reason)
    return rows.select(
        *names,
        pl.col("_bi_first_file").alias("_bi_source_file"),
        pl.col("_bi_first_row").alias("_bi_row"),
        reason.alias("_bi_reason"),
        message.alias("_bi_message"),
        pl.col("_bi_earlier_attempts").alias("_bi_attempts"),
    )


def _aligned(part: _Part, columns: Sequence[str]) -> pl.LazyFrame:
    """A file's rows with every file's columns."""
    absent = [pl.lit(None, pl.String).alias(column) for column in columns if column not in part.names]
    own = ("_bi_source_file", "_bi_row", "_bi_reason", "_bi_message", "_bi_attempts")
    return part.rows.with_columns(absent).select(*columns, *own)


def _write(frame: pl.LazyFrame, to: Path, read: Sequence[_Part]) -> None:
    names = ", ".join(part.file.name for part in read)
    try:
        with room_for(to), _panics_refused(names):
            frame.sink_parquet(to, compression="lz4", statistics=False, row_group_size=_ROW_GROUP, engine="streaming")
    except (pl.exceptions.PolarsError, FileNotFoundError) as trouble:
        raise InputRefused(f"the input cannot be read to its end: {names}", hint="write it again") from trouble


def _refuse_changed(read: Sequence[_Part]) -> None:
    for part in read:
        with suppress(FileNotFoundError):  # gone is changed, too
            now = part.file.path.stat()
            if (now.st_size, now.st_mtime_ns, now.st_ino) == (
                part.seen.st_size,
                part.seen.st_mtime_ns,
                part.seen.st_ino,
            ):
                continue
        raise InputRefused(f"{part.file.name} changed while it was read", hint="start again when it is written whole")


def _refuse_twice(written: pl.LazyFrame, read: Sequence[_Part]) -> None:
    """Refuse rows that stand twice, by the lineage of failure ledgers."""
    twice = (
        written.group_by("_bi_source_file", "_bi_row")
        .agg(pl.len().alias("times"))
        .filter(pl.col("times") > 1)
        .sort("_bi_source_file", "_bi_row")
        .head(1)
        .collect(engine="streaming")
    )
    if not twice.is_empty():
        source, row, times = twice.row(0)
        raise InputRefused(
            f"row {row} of {source} stands {times} times in the input ({', '.join(part.file.name for part in read)})",
            hint="give each failure ledger once, and not beside the file it came from",
        )


def _count(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.len()).collect(engine="streaming").item())
