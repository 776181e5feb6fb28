"""
Inquiry: what one customer got of a target, from history alone.

Reads only, takes no lock. The identifier is a person's: it goes into the query and nowhere else.
"""

import polars as pl

from bulkissue.input.identifiers import identify
from bulkissue.job.loading import LoadedJob
from bulkissue.outcomes import IDENTIFIER_TYPES, KNOWN_BY, STRENGTH
from bulkissue.plan import same_number
from bulkissue.service.routes import ROUTES, routes_of
from bulkissue.state.store import store_at

_SHOWN = ("outcome", "run", "source_file", "source_row", "reference", "answered_at")


def keys_of(loaded: LoadedJob, identifier: str) -> pl.DataFrame:
    """
    What an identifier may mean by the job's rules: `identifier_type`, `compare_key` (String), a line for each type.

    Args:
        loaded: The job.
        identifier: As a file would have it.
    """
    routes = routes_of(loaded.job)
    carried = {kind: ROUTES[route].SOURCES and ("INSTORE",) for kind, route in routes.items()}
    settings = loaded.job.identifiers.model_copy(update={"default_source": "INSTORE"})
    nothing = pl.lit(None, pl.String)
    possible = [
        identify(
            pl.LazyFrame({kind: [identifier]}).with_columns(nothing.alias("_bi_reason"), nothing.alias("_bi_message")),
            {kind: kind},
            "wide",
            settings,
            carried,
        )
        for kind in IDENTIFIER_TYPES
        if kind in routes
    ]
    return (
        pl.concat(possible)
        .filter(pl.col("reason").is_null())
        .select(pl.col("identifier_type").cast(pl.String), "compare_key")
        .collect()
    )


def what_customer_got(loaded: LoadedJob, identifier: str) -> list[dict[str, object]]:
    """
    Every line of the target's history about this customer, oldest first.

    Args:
        loaded: The job; its target is asked about, and its rules normalise the identifier.
        identifier: As a file would have it; each identifier type that it could be is looked up.
    """
    keys = keys_of(loaded, identifier).lazy()
    remembered = store_at(loaded.state_dir).issued(loaded.job.issues())
    mobiles = keys.filter(pl.col("identifier_type") == "mobile").collect()["compare_key"]
    remembered = same_number.alike(remembered, mobiles, loaded.job.identifiers.calling_code)
    digest = remembered.digests.of(pl.col("identifier_type"), pl.col("compare_key"))
    wanted = keys.select("identifier_type", digest.alias("key")).collect()
    asked = {kind: wanted.filter(pl.col("identifier_type") == kind)["key"].implode() for kind in STRENGTH}
    mine = pl.any_horizontal(
        (
            pl.when(pl.col("identifier_type") == kind)
            .then("key")
            .otherwise(name)
            .is_in(asked[kind])
            .fill_null(value=False)
        )
        for kind, name in KNOWN_BY.items()
    )
    found = remembered.lines.filter(mine).sort("run", "source_row")
    return found.select("identifier_type", *_SHOWN).collect().to_dicts()
