"""
One mobile, written with and without its country code: the input's held against those that history remembers.

It must never take two numbers for one by their ends alone: where no country code says so, the row is rejected.
"""

import polars as pl

from bulkissue.job.model import IdentifiersSection
from bulkissue.outcomes import KNOWN_BY
from bulkissue.state.history import History


def alike(history: History, mobiles: pl.Series, country_code: str | None) -> History:
    """
    History with mobiles as the input writes them: remembered ones that equal one of the input's but for a country code.

    That code is the job's, where the remembering run had none; else the one of that run, where the job has none.

    Args:
        history: Of the target, not empty.
        mobiles: Compare keys of the input's mobiles (String).
        country_code: The job's.
    """
    code = pl.col("country_code").fill_null("")
    codes = history.profile().codes
    digests, numbers = history.digests, mobiles.to_frame("number").lazy().drop_nulls().unique()
    number = pl.col("number")
    if country_code is not None:
        pairs = [("", numbers.filter(number.str.starts_with(country_code)), number.str.slice(len(country_code)))]
    else:
        pairs = [(one, numbers, pl.lit(one) + number) for one in sorted(codes - {""})]
    found = [
        chosen.select(
            digests.of("mobile", other).alias("mobile"),
            pl.lit(one).alias("code"),
            digests.of("mobile", number).alias("as_here"),
        )
        for one, chosen, other in pairs
        if one in codes
    ]
    if not found:
        return history
    kind = pl.col("identifier_type")
    mobile = pl.when(kind == "mobile").then("key").otherwise(KNOWN_BY["mobile"])
    marked = history.lines.with_columns(mobile.alias("mobile"), code.alias("code"))
    on = ["mobile", "code"]
    asked = pl.concat(found).collect(engine="streaming").lazy()
    # Digests differ by type, so that a mobile's can be looked for among all: one column tells whether there is any.
    places = ["key", KNOWN_BY["mobile"]] if history.profile().ties else ["key"]
    hits = [
        history.lines.select(pl.col(name).alias("mobile"))
        .join(asked.select("mobile"), on="mobile", how="semi")
        .unique()
        for name in places
    ]
    there = pl.concat(hits).collect(engine="streaming")
    if there.is_empty():
        return history
    remembered = marked.join(there.lazy(), on="mobile", how="semi").select(on).unique()
    aliases = asked.join(remembered.collect(engine="streaming").lazy(), on=on, how="semi").collect()
    if aliases.is_empty():
        return history
    here = pl.col("as_here")
    lines = marked.join(aliases.lazy(), on=on, how="left").with_columns(
        pl.when((kind == "mobile") & here.is_not_null()).then(here).otherwise("key").alias("key"),
        pl.when((kind != "mobile") & here.is_not_null())
        .then(here)
        .otherwise(KNOWN_BY["mobile"])
        .alias(KNOWN_BY["mobile"]),
    )
    return History(lines.drop("mobile", "code", "as_here"), digests, history.profile())


def ambiguous(history: History, rows: pl.DataFrame, settings: IdentifiersSection) -> pl.Series:
    """
    Where a mobile may be one that history remembers with, or without, a country code, and nothing says which code.

    Args:
        history: Of the target, as `alike` gives it.
        rows: `identifier_type`, `compare_key`, `outcome`; those with an outcome are passed over.
        settings: `[identifiers]`.

    Returns:
        Boolean, a line for each row.
    """
    nobody = pl.Series([False], dtype=pl.Boolean).new_from_index(0, rows.height)
    if settings.calling_code is not None:
        return nobody
    national, digests = settings.national_length, history.digests
    length = pl.col("compare_key").str.len_bytes()
    usable = pl.col("outcome").is_null() & (pl.col("identifier_type") == "mobile")
    end = digests.of("mobile", pl.col("compare_key").str.tail(national))
    mine = (
        rows.lazy()
        .select("identifier_type", "compare_key", "outcome")
        .with_row_index("line")
        .filter(usable & length.is_between(national, national + 3))
        .select("line", end.alias("end"), longer=length > national)
    )
    kind = pl.col("identifier_type")
    known = pl.when(kind == "mobile").then("key").otherwise(KNOWN_BY["mobile"])
    found = []
    for longer, theirs in ((False, pl.col("mobile_end")), (True, known)):
        if not longer and not history.profile().ends:
            continue
        remembered = history.lines.select(theirs.alias("end")).drop_nulls()
        found.append(mine.filter(pl.col("longer") == longer).join(remembered, on="end", how="semi").select("line"))
    lines = pl.concat(found).collect(engine="streaming")["line"]
    return nobody.scatter(lines, values=True) if lines.len() else nobody
