"""
A plan's rows as they are reckoned with: their columns, how they are settled, and how messages name them.

It must never settle a row twice: what has an outcome keeps it.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from bulkissue.outcomes import IDENTIFIER_TYPES, KNOWN_BY, Outcome

TYPE = pl.Enum(IDENTIFIER_TYPES)
OUTCOME = pl.Enum([outcome.value for outcome in Outcome])
#: In the file these are null where they are empty: polars takes long over empty text.
NULL_WHERE_EMPTY = ("source", "account_id")
#: So many rows are read, or looked at, at once.
SLICE = 1 << 19

#: plan.parquet, one line for each row of input.parquet and in its order. `compare_key` is null where it
#: equals `identifier`; `outcome`, `reason` and `message` are null where the row is to be sent, `batch` where not.
#: `passed_over` is `TYPE:REASON` of the identifier that the row would rather have been sent by, else null.
#: The columns of `KNOWN_BY` are the compare keys of the identifiers that the row has beside the one it is sent by.
#: `first` is the row that is sent for the customer of a duplicate under another identifier, else null.
#: In the file `source` and `account_id` are null where they are empty.
PLAN_SCHEMA = pl.Schema(
    {
        "row": pl.UInt32(),
        "identifier_type": TYPE,
        "identifier": pl.String(),
        "compare_key": pl.String(),
        "source": pl.String(),
        "account_id": pl.String(),
        "outcome": OUTCOME,
        "reason": pl.String(),
        "message": pl.String(),
        "batch": pl.UInt32(),
        "first": pl.UInt32(),
        "passed_over": pl.String(),
        **{name: pl.String() for name in KNOWN_BY.values()},
    }
)


def settle(
    rows: pl.DataFrame, mask: pl.Series, outcome: Outcome, reason: str | pl.Expr, message: pl.Expr
) -> pl.DataFrame:
    """Give the rows under `mask` their outcome; the others keep what they have."""
    if not mask.any():
        return rows
    chosen = pl.lit(mask)
    reason_expr = pl.lit(reason) if isinstance(reason, str) else reason
    return rows.with_columns(
        pl.when(chosen).then(pl.lit(outcome.value, OUTCOME)).otherwise("outcome").alias("outcome"),
        pl.when(chosen).then(reason_expr).otherwise("reason").alias("reason"),
        pl.when(chosen).then(message).otherwise("message").alias("message"),
    )


def apply(rows: pl.DataFrame, settled: pl.DataFrame) -> pl.DataFrame:
    """Give the rows named in `settled` (row, new_outcome, new_reason, new_message) their outcome."""
    if settled.is_empty():
        return rows
    found = rows.select("row").join(settled, on="row", how="left", maintain_order="left")
    return rows.with_columns(
        pl.coalesce(pl.lit(found[f"new_{name}"]), name).alias(name) for name in ("outcome", "reason", "message")
    )


def name_of(input_path: Path, row: int) -> str:
    """A row as messages name it."""
    return str(row_names(input_path, pl.Series([row], dtype=pl.UInt32))["name"][0])


def known_by_row(plan: Path, rows: Sequence[int]) -> dict[int, list[str]]:
    """What the customers of some rows of a plan are known by, as it was sent and as it is compared."""
    wanted = pl.Series(rows, dtype=pl.UInt32).implode()
    found = pl.scan_parquet(plan, glob=False).filter(pl.col("row").is_in(wanted))
    names = ("identifier", "compare_key", *KNOWN_BY.values())
    return {row: [text for text in texts if text] for row, *texts in found.select("row", *names).collect().iter_rows()}


def row_names(input_path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Rows as messages name them, `FILE row N`: columns `row`, `name`."""
    return (
        pl.scan_parquet(input_path, glob=False)
        .select("_bi_source_file", "_bi_row")
        .with_row_index("row")
        .join(wanted.to_frame("row").lazy(), on="row", how="semi")
        .select("row", pl.format("{} row {}", "_bi_source_file", "_bi_row").alias("name"))
        .collect(engine="streaming")
    )
