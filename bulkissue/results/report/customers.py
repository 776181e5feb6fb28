"""
One customer, two identifiers: rows that the service's own customer ids show to be the same person.

A double gift that no comparison of the input's identifiers can see. It must never name a customer: rows are named by
file and number.
"""

from typing import Any

import polars as pl

from bulkissue.state.run_folder import SameCustomer, SameCustomers

#: So many are named, the rest is counted.
MOST_NAMED = 100


def same_customers(issued: pl.LazyFrame, run_id: str) -> SameCustomers:
    """
    The rows of a run that were, or may have been, issued to a customer who had it already.

    Args:
        issued: The target's history with this run in it, columns of `history.HISTORY_SCHEMA`.
        run_id: This run.

    Returns:
        How many, and the first of them: each row once, in the order of file and number, with the row of another run
        that is the same customer, else with the first such row of this run.
    """
    rows = issued.select(
        "run",
        "source_file",
        "source_row",
        "customer",
    ).filter(pl.col("customer").is_not_null())
    # Ten million ids as text are a gigabyte. Their hashes are 80 MB, and nominate; equality decides below.
    mine = (
        rows.filter(pl.col("run") == run_id)
        .select(pl.col("customer").hash().alias("hash"))
        .collect(engine="streaming")["hash"]
        .sort()
    )
    elsewhere = (
        rows.filter(pl.col("run") != run_id)
        .select(pl.col("customer").hash().alias("hash"))
        .join(mine.unique().to_frame().lazy(), on="hash", how="semi")
        .unique()
        .collect(engine="streaming")["hash"]
    )
    nominated = pl.concat([mine.filter(mine == mine.shift()).unique(), elsewhere]).unique().to_frame()
    if nominated.is_empty():
        return SameCustomers()
    chosen = (
        rows.with_columns(pl.col("customer").hash().alias("hash"))
        .join(nominated.lazy(), on="hash", how="semi")
        .select("customer", "run", "source_file", "source_row")
        .collect(engine="streaming")
    )
    here, there = chosen.filter(pl.col("run") == run_id), chosen.filter(pl.col("run") != run_id)
    pairs = (
        here.join(_first(there, "other"), on="customer", how="left")
        .join(_first(here, "first"), on="customer", how="left")
        .filter(pl.col("other").is_not_null() | (pl.struct("run", "source_file", "source_row") != pl.col("first")))
    )
    shown = pairs.bottom_k(MOST_NAMED, by=["source_file", "source_row"]).sort("source_file", "source_row")
    return SameCustomers(
        count=pairs.height,
        named=tuple(
            SameCustomer((_name(row), _name(row["other"])), row["other"]["run"])
            if row["other"] is not None
            else SameCustomer((_name(row["first"]), _name(row)))
            for row in shown.iter_rows(named=True)
        ),
    )


def _first(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Each customer's first row, by run, file and number."""
    names = pl.struct("run", "source_file", "source_row")
    return rows.sort("run", "source_file", "source_row").group_by("customer").agg(names.first().alias(name))


def _name(row: dict[str, Any]) -> str:
    return f"{row['source_file']} row {row['source_row']}"
