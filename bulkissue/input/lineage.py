"""
Our own ledgers as input: which may be sent again, and where their rows first stood.

It must never let a row through that may have been issued: a success, duplicate or unknown ledger of the same
target is refused, and so is a ledger whose evidence somebody took out. Nor may it trust the cells of a row that could
not be read.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from bulkissue.errors import InputRefused
from bulkissue.input.column_mapping import INVISIBLE
from bulkissue.input.spreadsheet import changed_cells
from bulkissue.input.tables import OWN_MESSAGE, OWN_REASON, OWN_ROW
from bulkissue.job.target import same_target
from bulkissue.outcomes import LEDGER_COLUMNS, Outcome

Kind = Literal["plain", "failure_ledger"]

_MAY_BE_SENT = {Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED}
_NEEDED = ("_bi_outcome", "_bi_target", "_bi_source_file", "_bi_row")
_RUNS_NAMED = 3
#: Reasons by the reading of a file, not by the rules for identifiers. Such a row's cells are not to be trusted.
_UNREAD = ("validate.ragged_line", "validate.misquoted_line", "validate.unreadable_value")
_STILL_UNREAD = "it could not be read where it first stood; mend its cells and empty its _bi_reason, or mend that file"
_AS_WRITTEN = "give the ledger as bulkissue wrote it; in a spreadsheet leave the _bi_ columns alone"


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a file is, by its columns and outcomes.

    Attributes:
        kind: `failure_ledger` where its rows keep the file and number they had first.
        runs: The runs a ledger came from, at most a few.
        notes: What the user is told of it.
    """

    kind: Kind = "plain"
    runs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def own_columns(names: Collection[str], file: str) -> list[str]:
    """
    The ledger columns among a file's columns: none, or enough of them to trust it.

    Raises:
        InputRefused: There are some, but not those that say what became of a row.
    """
    own = [name for name in names if name.startswith("_bi_")]
    missing = [name for name in _NEEDED if name not in own]
    foreign = [name for name in own if name not in LEDGER_COLUMNS]
    if foreign:
        raise InputRefused(
            f"{file}: names that begin with _bi_ are bulkissue's own, and {', '.join(foreign)} is none of its columns",
            hint="give these columns another name",
        )
    if own and missing:
        raise InputRefused(
            f"{file} has columns of a ledger ({', '.join(own[:4])}), but not {', '.join(missing)}: "
            "what became of its rows cannot be told",
            hint="give the ledger as bulkissue wrote it",
        )
    return own


def judge(rows: pl.LazyFrame, own: Collection[str], file: str, target: str) -> Verdict:
    """
    Say whether a ledger may be sent.

    Args:
        rows: Its rows, with its `_bi_` columns as text, and `OWN_ROW`.
        own: Those columns, as `own_columns` gives them.
        file: Its name, for messages.
        target: What this run issues, as in `_bi_target`.

    Raises:
        InputRefused: It holds unknown rows, or rows that this target's customers have, or a mix, or rows whose outcome
            or lineage is lost.
    """
    run = _cell("_bi_run") if "_bi_run" in own else pl.lit("")
    groups = (
        rows.group_by(_cell("_bi_outcome").alias("outcome"), _cell("_bi_target").alias("target"), run.alias("run"))
        .agg(pl.col(OWN_ROW).min().alias("row"))
        .sort("row")
        .collect(engine="streaming")
    )
    first_row = dict(reversed(groups.select("outcome", "row").rows()))
    runs = sorted({text for text in groups["run"] if text})
    named = tuple(runs[:_RUNS_NAMED])
    outcomes = first_row.keys() - {""}
    of_run = f" of run {named[0]}" if named else ""
    strange = outcomes - set(Outcome)
    if strange:
        row = min(first_row[outcome] for outcome in strange)
        raise InputRefused(f"{file}: row {row} has an _bi_outcome that is none of bulkissue's", hint=_AS_WRITTEN)
    if Outcome.UNKNOWN in outcomes:
        raise InputRefused(
            f"{file}: row {first_row[Outcome.UNKNOWN]} is unknown{of_run}; it may have been issued, so it is not sent",
            hint=f"settle it first: bulkissue reconcile {named[0] if named else 'RUN'}, or bulkissue resolve",
        )
    if first_row and not outcomes:
        raise InputRefused(f"{file} is a ledger in which no row says its outcome", hint=_AS_WRITTEN)
    issued = outcomes - _MAY_BE_SENT
    if issued and outcomes & _MAY_BE_SENT:
        raise InputRefused(
            f"{file} mixes rows that may be sent again ({', '.join(sorted(outcomes & _MAY_BE_SENT))}) "
            f"with rows that may not ({', '.join(sorted(issued))})",
            hint="give the failure ledger alone",
        )
    if issued:
        targets = groups.filter(pl.col("outcome").is_in(list(issued)))["target"].unique().to_list()
        if "" in targets:
            raise InputRefused(f"{file} has rows that do not say their _bi_target", hint=_AS_WRITTEN)
        if any(same_target(text, target) for text in targets):
            raise InputRefused(
                f"{file} is a ledger{of_run} for this same target: its customers have it ({', '.join(sorted(issued))})",
                hint="send what failed with bulkissue retry; to issue once more on purpose, give --occasion",
            )
        return Verdict(notes=(f"a ledger{of_run} for another target; its rows are taken as plain input",))
    if not outcomes:
        return Verdict(notes=("a ledger without rows",))
    _refuse_lost_lineage(rows, file)
    return Verdict(
        "failure_ledger", named, (f"a failure ledger{of_run}: its rows keep the file and row number they had first",)
    )


def traced(rows: pl.LazyFrame, own: Collection[str], file: str) -> pl.LazyFrame:
    """
    A failure ledger's rows with the lineage they carry.

    A row without any, added by hand, is this file's own.

    A row that could not be read as it stood is still refused: its cells are what was made of it, shifted perhaps, and
    may name somebody else. Who has mended it empties its `_bi_reason`.

    Returns:
        `rows`, and `_bi_first_file` (String), `_bi_first_row` (UInt64) and `_bi_earlier_attempts` (UInt32).
    """
    source, row, added = _lineage()
    attempts = _whole("_bi_attempts", pl.UInt32) if "_bi_attempts" in own else pl.lit(0, pl.UInt32)
    if "_bi_reason" in own:
        unread = _cell("_bi_reason").is_in(_UNREAD) & pl.col(OWN_REASON).is_null()
        rows = rows.with_columns(
            pl.when(unread).then(_cell("_bi_reason")).otherwise(OWN_REASON).alias(OWN_REASON),
            pl.when(unread).then(pl.lit(_STILL_UNREAD)).otherwise(OWN_MESSAGE).alias(OWN_MESSAGE),
        )
    return rows.with_columns(
        pl.when(added).then(pl.lit(file)).otherwise(source).alias("_bi_first_file"),
        pl.when(added).then(pl.col(OWN_ROW)).otherwise(row).alias("_bi_first_row"),
        attempts.fill_null(0).alias("_bi_earlier_attempts"),
    )


@dataclass(frozen=True, slots=True)
class Healed:
    """
    A failure ledger's rows, held against what the runs that wrote it had read.

    Attributes:
        rows: With what a spreadsheet damaged restored.
        vouched: For some columns: a column (Boolean) that says where the cell is as the run had read it.
        notes: What was restored, and what could not be held against anything.
    """

    rows: pl.LazyFrame
    vouched: dict[str, str]
    notes: tuple[str, ...]


def healed(rows: pl.LazyFrame, names: Collection[str], file: str, originals: Callable[[str], Path | None]) -> Healed:
    """
    Restore the cells that a spreadsheet damaged, by the lineage of their rows.

    Args:
        rows: As `traced` gives them.
        names: The users' columns.
        file: The ledger's name, for messages.
        originals: The `input.parquet` of a run by its id; None where it is not to be had.

    Raises:
        InputRefused: A row names a place that its run does not have.
    """
    run = _cell("_bi_run")
    runs = sorted(rows.filter(run != "").select(run.unique()).collect(engine="streaming")["_bi_run"])
    found = {one: path for one in runs if (path := originals(one)) is not None}
    notes = [
        f"the input of run {one} is not to be had: cells that a spreadsheet changed cannot be told"
        for one in runs
        if one not in found
    ]
    if not found:
        return Healed(rows, {}, tuple(notes))
    parts = [pl.scan_parquet(path, glob=False) for path in found.values()]
    columns = [name for name in names if any(name in part.collect_schema() for part in parts)]
    originally = pl.concat(
        part.select(
            pl.lit(one).alias("_bi_of_run"),
            pl.col("_bi_source_file").alias("_bi_first_file"),
            pl.col("_bi_row").cast(pl.UInt64).alias("_bi_first_row"),
            *(
                (pl.col(name) if name in part.collect_schema() else pl.lit(None, pl.String)).alias(f"_bi_was_{place}")
                for place, name in enumerate(columns)
            ),
            pl.lit(value=True).alias("_bi_there"),
        )
        for one, part in zip(found, parts, strict=True)
    )
    on = ["_bi_of_run", "_bi_first_file", "_bi_first_row"]
    joined = rows.with_columns(run.alias("_bi_of_run")).join(originally, on=on, how="left", maintain_order="left")
    _refuse_strangers(joined, list(found), file)
    vouched = {}
    for place, name in enumerate(columns):
        was, cell, sure = pl.col(f"_bi_was_{place}"), pl.col(name), f"_bi_vouched_{place}"
        differs = was.is_not_null() & cell.is_not_null() & (was != cell)
        pairs = joined.filter(differs).select(was.alias("original"), cell.alias("cell")).unique()
        made = changed_cells(pairs.collect(engine="streaming"))
        if made.height:
            keys = made.lazy().with_columns(pl.lit(value=True).alias("_bi_made"))
            joined = joined.join(
                keys,
                left_on=[f"_bi_was_{place}", name],
                right_on=["original", "cell"],
                how="left",
                maintain_order="left",
            )
            count = joined.select(pl.col("_bi_made").sum()).collect(engine="streaming").item()
            joined = joined.with_columns(pl.when("_bi_made").then(was).otherwise(cell).alias(name)).drop("_bi_made")
            named = found if len(found) < _RUNS_NAMED else [*found][:_RUNS_NAMED]
            notes.append(
                f'{count:,} cells of "{name}" were damaged by a spreadsheet and restored from run {", ".join(named)}'
            )
        vouched[name] = sure
        joined = joined.with_columns((was == pl.col(name)).fill_null(value=False).alias(sure))
    return Healed(joined, vouched, tuple(notes))


def _refuse_strangers(joined: pl.LazyFrame, runs: list[str], file: str) -> None:
    strangers = joined.filter(pl.col("_bi_of_run").is_in(runs) & pl.col("_bi_there").is_null())
    first = strangers.select(OWN_ROW, "_bi_first_file", "_bi_first_row", "_bi_of_run").head(1).collect()
    if first.height:
        row, source, number, run = first.row(0)
        raise InputRefused(
            f"{file}: row {row} says it is row {number} of {source} in run {run}, which has no such row",
            hint=_AS_WRITTEN,
        )


def _refuse_lost_lineage(rows: pl.LazyFrame, file: str) -> None:
    source, row, added = _lineage()
    lost = (_cell("_bi_outcome") == "") | (source == "") | row.is_null()
    first = rows.filter(~added & lost).select(pl.col(OWN_ROW).min()).collect(engine="streaming").item()
    if first is not None:
        raise InputRefused(
            f"{file}: row {first} has lost its _bi_outcome, _bi_source_file or _bi_row",
            hint=f"{_AS_WRITTEN}; empty both of a row you add by hand",
        )


def _lineage() -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """The first file and row of a ledger's row, and whether it has neither: then it was added by hand."""
    source = _cell("_bi_source_file")
    return source, _whole("_bi_row", pl.UInt64), (source == "") & (_cell("_bi_row") == "")


def _cell(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars(INVISIBLE).fill_null("")


def _whole(column: str, dtype: type[pl.DataType]) -> pl.Expr:
    """A whole number, as we or a spreadsheet write it (3, 3.0); null for anything else, and for 0."""
    return _cell(column).str.extract(r"^0*([1-9][0-9]*)(?:[.,]0+)?$").cast(dtype, strict=False)


def untraced(rows: pl.LazyFrame, file: str) -> pl.LazyFrame:
    """Rows that begin here: the columns of `traced`, with this file's own name and numbers."""
    return rows.with_columns(
        pl.lit(file).alias("_bi_first_file"),
        pl.col(OWN_ROW).alias("_bi_first_row"),
        pl.lit(0, pl.UInt32).alias("_bi_earlier_attempts"),
    )
