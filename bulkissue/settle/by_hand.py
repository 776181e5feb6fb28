"""
Settling by hand: a person says of unknown rows, with evidence, whether they were issued.

What a person says is appended to the journal with name, evidence and time, never edited; ledgers,
counts and history follow. Only unknown rows can be settled: what an answer proved stays proved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from bulkissue.errors import InputRefused, UsageRefused
from bulkissue.outcomes import REASONS, Outcome
from bulkissue.state.entries import Settlement

Finding = Literal["issued", "not-issued"]
_OUTCOME_OF: dict[str, Outcome] = {"issued": Outcome.SUCCEEDED, "not-issued": Outcome.FAILED}
_REASON_OF: dict[str, str] = {"issued": "resolve.issued", "not-issued": "resolve.not_issued"}


@dataclass(frozen=True, slots=True)
class Word:
    """
    What a person says of one row.

    Attributes:
        file: The row's source file as ledgers name it; empty where its number alone is enough.
        row: Its 1-based number in that file.
        finding: `issued` or `not-issued`.
        by: Who says so.
        evidence: Where it can be looked up.
        run: The run whose row it is, where a ledger's line says so; else empty.
    """

    file: str
    row: int
    finding: Finding
    by: str
    evidence: str
    run: str = ""


def parse_row(text: str) -> tuple[str, int]:
    """
    `FILE:N` or `N` as file and number.

    Raises:
        UsageRefused: It is neither.
    """
    file, _, number = text.rpartition(":")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise UsageRefused(f"--row {text!r} names no row", hint="--row 17, or --row inbox/file.csv:17")
    return file, int(number)


def words_of(rows: Sequence[str], finding: str | None, by: str | None, evidence: str | None) -> list[Word]:
    """
    The same word about several rows.

    Raises:
        UsageRefused: A row is not `FILE:N` or `N`, or one of the three is missing.
    """
    if finding is None or not by or not evidence:
        raise UsageRefused(
            "a settlement needs --as, --by and --evidence", hint='--as issued --by "Asha" --evidence "ticket 4711"'
        )
    said: Finding = "issued" if finding == "issued" else "not-issued"
    return [Word(*parse_row(row), said, by, evidence) for row in rows]


def read_words(path: Path, *, by: str | None, evidence: str | None) -> list[Word]:
    """
    The words of a CSV file: a copy of `unknown.csv` with a column `as` will do.

    Its columns: `as`; `row` (and `file`), or `_bi_row` (and `_bi_source_file`); `by` and `evidence`, unless
    given for all rows. Lines with an empty `as` say nothing.

    Raises:
        InputRefused: The file cannot be read as that; the line is named.
    """
    try:
        with path.open("rb") as file:
            header = file.readline()
        # As spreadsheets save it, wherever they are.
        separator = max(",", ";", "\t", key=lambda mark: header.count(mark.encode()))
        table = pl.read_csv(path, infer_schema=False, encoding="utf8-lossy", separator=separator)
    except (OSError, pl.exceptions.PolarsError) as trouble:
        raise InputRefused(f"{path} cannot be read as CSV ({type(trouble).__name__})") from trouble
    if "as" not in table.columns:
        raise InputRefused(f"{path} has no column `as`", hint="add it, with issued or not-issued where you know")
    words = []
    for line, cells in enumerate(table.iter_rows(named=True), start=2):
        finding = (cells.get("as") or "").strip().replace("_", "-").replace(" ", "-").lower()
        if finding and finding not in _OUTCOME_OF:
            raise InputRefused(f"{path} line {line}: `as` must be issued or not-issued")
        if not finding:
            continue
        number = (cells.get("row") or cells.get("_bi_row") or "").strip()
        who, why = by or cells.get("by"), evidence or cells.get("evidence")
        if not number.isdigit():
            raise InputRefused(
                f"{path} line {line}: it names no row", hint="give it a column row, or _bi_row as in unknown.csv"
            )
        if not who or not why:
            raise InputRefused(
                f"{path} line {line}: it lacks by or evidence", hint="give --by and --evidence, or the columns"
            )
        source = (cells.get("file") or cells.get("_bi_source_file") or "").strip()
        run = (cells.get("_bi_run") or "").strip()
        words.append(Word(source, int(number), "issued" if finding == "issued" else "not-issued", who, why, run))
    return words


def settlements(words: Sequence[Word], run_id: str, open_rows: pl.DataFrame, at: int) -> list[Settlement]:
    """
    The journal's entries for what was said. What a person said of a row before, or says twice now, is said once.

    Args:
        words: What was said.
        run_id: The run that they are said of.
        open_rows: The run's rows that are unknown, or were settled by a person: `_bi_place`, `_bi_source_file`,
            `_bi_row`, `_bi_reason`.
        at: Now, in epoch milliseconds.

    Raises:
        UsageRefused: A word names no such row, or several, or another run's, or contradicts another about the same row.
    """
    places: dict[int, list[tuple[str, int]]] = {}
    said: dict[int, str] = {}
    for row, file, number, reason in open_rows.select(
        "_bi_place", "_bi_source_file", "_bi_row", "_bi_reason"
    ).iter_rows():
        places.setdefault(number, []).append((file, row))
        if reason in _REASON_OF.values():
            said[row] = reason
    entries = []
    for word in words:
        name = f"{word.file}:{word.row}" if word.file else str(word.row)
        if word.run not in {"", run_id}:
            raise UsageRefused(
                f"row {name} is said to be one of run {word.run}, and this is run {run_id}",
                hint=f"bulkissue resolve {word.run} --from the same file",
            )
        found = [row for file, row in places.get(word.row, ()) if word.file in {"", file}]
        if not found:
            raise UsageRefused(f"row {name} is not among this run's unknown rows", hint="unknown.csv lists them")
        if len(found) > 1:
            raise UsageRefused(f"row {name} stands in several input files", hint="name the file too: FILE:N")
        row, reason = found[0], _REASON_OF[word.finding]
        if row in said:
            if said[row] != reason:
                raise UsageRefused(
                    f"row {name} is said to be {word.finding}, and the contrary was said of it as well",
                    hint="find out which is true; what an earlier command settled stays settled",
                )
            continue
        said[row] = reason
        entries.append(
            Settlement(
                row=row,
                outcome=_OUTCOME_OF[word.finding],
                reason=reason,
                message=REASONS[reason],
                reference="",
                settled_by=word.by,
                evidence=word.evidence,
                at=at,
            )
        )
    return entries
