"""
Who is the same customer, by the identifiers that stand beside each other in rows of the input and lines of history.

The one place of this rule. Pure and vectorised. It must never take two customers for one because they share an
identifier: one that leads to two customers names nobody.

Identifiers are compared by their digests (`history.DIGEST`), which differ by identifier type.
"""

import polars as pl

from bulkissue.outcomes import KNOWN_BY, STRENGTH
from bulkissue.state.history import DIGEST, History

#: The end of an identifier that is shared by several customers; no digest is 0, as good as never.
SHARED = 0
#: What a line of history says of a customer and of what became of it.
_ABOUT_CUSTOMERS = (
    *("identifier_type", "key", *KNOWN_BY.values(), "customer"),
    *("outcome", "run", "source_file", "source_row"),
)


def ends(known: pl.DataFrame) -> pl.DataFrame:
    """
    Follow the ties between identifiers to their ends.

    Every identifier of a row is tied to the best one of the row. Type by type, best first, the ties of an identifier
    are followed: where they all end at one place, that is its customer; where they end at two, it is shared, names
    nobody and ties nothing.

    Args:
        known: Each row's usable identifiers, a column for each of `STRENGTH` (`DIGEST`, null where the row has none).

    Returns:
        For each row and type where the identifier ends, a digest; `SHARED` where it is shared, null where the row has
        none. Rows of one customer have the same end.
    """
    found = known.select(STRENGTH)
    best = pl.Series("best", [None], dtype=DIGEST).new_from_index(0, known.height)
    columns = []
    for kind in STRENGTH:
        key = found[kind]
        ties = (
            pl.DataFrame([key.alias("key"), best])
            .lazy()
            .filter(pl.col("key").is_not_null(), pl.col("best").is_not_null(), pl.col("best") != SHARED)
            .group_by("key")
            .agg(pl.col("best").min().alias("end"), (pl.col("best").min() != pl.col("best").max()).alias("several"))
            .with_columns(pl.when("several").then(pl.lit(SHARED, DIGEST)).otherwise("end").alias("end"))
            .select("key", "end")
        )
        end = (
            key.alias("key")
            .to_frame()
            .lazy()
            .join(ties, on="key", how="left", maintain_order="left")
            .select(pl.coalesce("end", "key").alias(kind))
            .collect()[kind]
        )
        columns.append(end)
        best = pl.select(pl.coalesce(best, end).alias("best"))["best"]
    return pl.DataFrame(columns)


def with_several(known: pl.DataFrame) -> pl.Series:
    """Which rows have several identifiers; `known` as `repeated` takes it. Boolean."""
    return known.select(pl.sum_horizontal(pl.col(kind).is_not_null() for kind in STRENGTH) > 1).to_series()


def repeated(known: pl.DataFrame) -> pl.Series:
    """
    Which rows have an identifier that another row has too.

    Args:
        known: A column for each of `STRENGTH`, of whatever type.

    Returns:
        Boolean, a line for each row; by hashes, so a few more rows may be named.
    """
    found = pl.Series([False], dtype=pl.Boolean).new_from_index(0, known.height)
    for kind in STRENGTH:
        hashes = known[kind].drop_nulls().hash().sort()
        several = hashes.filter(hashes == hashes.shift()).unique()
        if several.len():
            found |= known[kind].is_not_null() & known[kind].hash().is_in(several.implode())
    return found


def among(known: pl.DataFrame, others: pl.DataFrame) -> pl.Series:
    """Which rows have an identifier that is among the others; both as `ends` takes them. Boolean."""
    found = pl.Series([False], dtype=pl.Boolean).new_from_index(0, known.height)
    for kind in STRENGTH:
        theirs = others[kind].drop_nulls().unique()
        if theirs.len():
            found |= known[kind].is_in(theirs.implode()).fill_null(value=False)
    return found


def all_known(rows: pl.LazyFrame, key: str = "key") -> pl.LazyFrame:
    """
    Every identifier that rows of a plan or lines of history are known by.

    Args:
        rows: `identifier_type` (String), the column `key` (never null), and the columns of `KNOWN_BY`.
        key: The column of the identifier that was, or would be, sent.

    Returns:
        A column for each of `STRENGTH`, as `ends` takes them where the columns are digests.
    """
    return rows.select(_keys(key))


def _keys(key: str = "key") -> list[pl.Expr]:
    return [
        pl.when(pl.col("identifier_type") == kind).then(key).otherwise(name).alias(kind)
        for kind, name in KNOWN_BY.items()
    ]


def of_sent(kinds: pl.Series, values: pl.DataFrame) -> pl.Series:
    """
    Of a value for each identifier type that of the type a row is sent by.

    Args:
        kinds: The rows' identifier types, null where they are sent by none.
        values: A column for each of `STRENGTH`, a line for each row.
    """
    chosen = [pl.when(pl.col("_bi_kind") == kind).then(pl.col(kind)) for kind in STRENGTH]
    together = values.with_columns(kinds.cast(pl.String).alias("_bi_kind"))
    return together.select(pl.coalesce(*chosen).alias("customer"))["customer"]


def related(history: History, known: pl.DataFrame, *, several: bool) -> pl.DataFrame | None:
    """
    The lines of history that say anything about these customers, over as many ties as there are types.

    Args:
        history: What is remembered.
        known: Identifiers, a column for each of `STRENGTH` (`DIGEST`); those of types that history does not know may
            be left out.
        several: Whether any of these customers is known by several identifiers, of whatever types.

    Returns:
        Those lines, with the columns of `_ABOUT_CUSTOMERS`; None where neither side has a row with several identifiers,
        so that only a sent identifier itself says anything.
    """
    tied = history.profile().ties
    if not several and not tied:
        return None
    columns = ["key", *KNOWN_BY.values()] if tied else ["key"]
    known_so_far = asked = _all_of(known)
    lines = history.lines.select(_ABOUT_CUSTOMERS)
    found = lines.head(0).collect()
    for _ in STRENGTH:
        # Digests differ by type, so that all of them can be asked for at once.
        wanted = asked.to_frame("_bi_asked").lazy()
        parts = [found]
        for name in columns:
            # Most of a large history is of others: one column tells, before the rest of it is read.
            hit = lines.select(pl.col(name).alias("_bi_asked")).join(wanted, on="_bi_asked", how="semi")
            hits = hit.unique().collect(engine="streaming").lazy()
            if hits.head(1).collect().height:
                theirs = lines.join(hits, left_on=name, right_on="_bi_asked", how="semi")
                parts.append(theirs.collect(engine="streaming"))
        found = pl.concat(parts).unique()
        more = _all_of(all_known(found.lazy()).collect())
        asked = more.filter(~more.is_in(known_so_far.implode()))
        if asked.is_empty() or not tied:
            break
        known_so_far = pl.concat([known_so_far, asked])
    return found.sort("run", "source_file", "source_row", "key")


def _all_of(known: pl.DataFrame) -> pl.Series:
    """Every identifier of these rows, once."""
    return pl.concat([known[kind].alias("digest") for kind in STRENGTH]).drop_nulls().unique()
