"""
Who is the same customer, by the identifiers that stand beside each other in the input's rows.

The one place of this rule. Pure and vectorised. It must never take two customers for one because they share an
identifier: one that leads to two customers names nobody.
"""

import polars as pl

#: How well a type identifies, best first; fixed, whatever a job prefers to send by.
STRENGTH = ("id", "external_id", "mobile", "email")

#: The end of an identifier that is shared by several customers.
SHARED = ""


def ends(known: pl.DataFrame) -> pl.DataFrame:
    """
    Follow the ties between identifiers to their ends.

    Every identifier of a row is tied to the best one of the row. Type by type, best first, the ties of an identifier
    are followed: where they all end at one place, that is its customer; where they end at two, it is shared, names
    nobody and ties nothing.

    Args:
        known: The compare keys of each row's usable identifiers, a column for each of `STRENGTH` (String, null where
            the row has none).

    Returns:
        For each row and type where the identifier ends, as `TYPE:KEY`; `SHARED` where it is shared, null where the row
        has none. Rows of one customer have the same end.
    """
    found = known.select(STRENGTH)
    best = pl.Series("best", [None], dtype=pl.String).new_from_index(0, known.height)
    columns = []
    for kind in STRENGTH:
        key = found[kind]
        ties = (
            pl.DataFrame([key.alias("key"), best])
            .lazy()
            .filter(pl.col("key").is_not_null(), pl.col("best").is_not_null(), pl.col("best") != SHARED)
            .group_by("key")
            .agg(pl.col("best").min().alias("end"), (pl.col("best").min() != pl.col("best").max()).alias("several"))
            .with_columns(pl.when("several").then(pl.lit(SHARED)).otherwise("end").alias("end"))
            .select("key", "end")
        )
        own = pl.format(f"{kind}:{{}}", "key")
        end = (
            key.alias("key")
            .to_frame()
            .lazy()
            .join(ties, on="key", how="left", maintain_order="left")
            .select(pl.coalesce("end", own).alias(kind))
            .collect()[kind]
        )
        columns.append(end)
        best = pl.select(pl.coalesce(best, end).alias("best"))["best"]
    return pl.DataFrame(columns)
