"""
Who is the same customer, by the identifiers that stand beside each other in the input's rows.

The one place of this rule. Pure and vectorised. It must never take two customers for one because they share an
identifier: one that leads to two customers names nobody.
"""

import polars as pl

from bulkissue.outcomes import KNOWN_BY, STRENGTH

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


def entangled(known: pl.DataFrame, past: pl.DataFrame) -> pl.Series:
    """
    Which rows have an identifier that another row, or the past, has too; only these can be anybody else's customer.

    Args:
        known: As `ends` takes them.
        past: The same of history.

    Returns:
        Boolean, a line for each row of `known`; by hashes, so a few more rows may be named.
    """
    found = pl.Series([False], dtype=pl.Boolean).new_from_index(0, known.height)
    for kind in STRENGTH:
        hashes = pl.concat([known[kind], past[kind]]).drop_nulls().hash().sort()
        repeated = hashes.filter(hashes == hashes.shift()).unique()
        if repeated.len():
            found |= known[kind].is_not_null() & known[kind].hash().is_in(repeated.implode())
    return found


def all_known(rows: pl.LazyFrame) -> pl.LazyFrame:
    """
    Every identifier that rows of a plan or of history are known by.

    Args:
        rows: `identifier_type` (String), `compare_key` (never null), and the columns of `KNOWN_BY`.

    Returns:
        A column for each of `STRENGTH`, as `ends` takes them.
    """
    return rows.select(_keys())


def _keys() -> list[pl.Expr]:
    return [
        pl.when(pl.col("identifier_type") == kind).then("compare_key").otherwise(name).alias(kind)
        for kind, name in KNOWN_BY.items()
    ]


def end_of_sent(rows: pl.DataFrame, ended: pl.DataFrame) -> pl.Series:
    """Where the identifiers end by which rows (`identifier_type`, String) are sent; null where they are by none."""
    mine = [pl.when(pl.col("identifier_type") == kind).then(pl.col(kind)) for kind in STRENGTH]
    together = rows.select(pl.col("identifier_type").cast(pl.String)).hstack(ended)
    return together.select(pl.coalesce(*mine).alias("customer"))["customer"]


def related(history: pl.LazyFrame, known: pl.DataFrame) -> pl.DataFrame:
    """
    The lines of history that say anything about these customers, over as many ties as there are types.

    Args:
        history: Lines of history, as `all_known` takes them.
        known: Identifiers, a column for each of `STRENGTH`.

    Returns:
        Those lines with all their columns; none where neither side has a row with several identifiers.
    """
    if history.head(1).collect(engine="streaming").is_empty():
        return history.head(0).collect()
    tied = history.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in KNOWN_BY.values()))
    several = known.select(pl.sum_horizontal(pl.col(kind).is_not_null() for kind in STRENGTH) > 1).to_series()
    if not several.any() and tied.head(1).collect(engine="streaming").is_empty():
        return history.head(0).collect()
    lines = history.with_row_index("_bi_line")
    keys = lines.select("_bi_line", *_keys())
    wanted, found = known, pl.DataFrame()
    for _ in STRENGTH:
        hits = [
            keys.select("_bi_line", kind)
            .join(wanted.lazy().select(kind).drop_nulls().unique(), on=kind, how="semi")
            .select("_bi_line")
            for kind in STRENGTH
        ]
        before = found.height
        found = lines.join(pl.concat(hits).unique(), on="_bi_line", how="semi").collect(engine="streaming")
        if found.height == before:
            break
        wanted = pl.concat([known, all_known(found.lazy()).collect()])
    return found.sort("_bi_line").drop("_bi_line")
