"""
What is remembered: rows whose customer an earlier run issued, or may have issued, are not sent.

It must never let a row pass because history names its customer by another identifier than the row is sent by.
"""

import polars as pl

from bulkissue.job.model import Job
from bulkissue.outcomes import REASONS, STRENGTH, Outcome
from bulkissue.plan import same_number
from bulkissue.plan.repeats import Distinct
from bulkissue.plan.rows import OUTCOME, apply, settle
from bulkissue.plan.same_customer import SHARED, all_known, ends, of_sent, related, with_several
from bulkissue.state.history import Digests, History

#: What is said of rows: `row`, `reason`, `message`.
_SAID = {"row": pl.UInt32, "reason": pl.String, "message": pl.String}
_ANOTHER = " to the same customer under another identifier"


def settle_issued(found: Distinct, job: Job, customers: pl.LazyFrame | None) -> pl.DataFrame:
    """
    The rows, settled where history holds their customer.

    Args:
        found: The rows; with `customer`, the service's own id (String), where `customers` are given.
        job: How mobiles are read.
        customers: Who is behind other identifiers than ids, `customers.SCHEMA`; None not to ask.
    """
    rows = found.rows
    if found.known is None:
        return rows
    live = rows["outcome"].is_null()
    wanted = _wanted(rows.select("row", "identifier_type"), found.known).filter(live)
    if customers is not None:
        known = found.history.digests.of("id", pl.col("customer")).alias("customer")
        wanted = wanted.with_columns(rows.filter(live).select(known)["customer"])
    about_them = found.history
    if found.past is not None and customers is None:
        about_them = History(found.past.lazy(), found.history.digests, found.history.profile())
    held, shared = held_by_history(wanted, ties(found.known), about_them, customers)
    rows = apply(
        rows,
        held.select(
            "row",
            pl.lit(Outcome.ALREADY_ISSUED.value, OUTCOME).alias("new_outcome"),
            pl.col("reason").alias("new_reason"),
            pl.col("message").alias("new_message"),
        ),
    )
    reason = "dedupe.shared_identifier"
    rows = settle(rows, rows["row"].is_in(shared.implode()), Outcome.REJECTED, reason, pl.lit(REASONS[reason]))
    ambiguous = same_number.ambiguous(found.history, rows, job.identifiers)
    message = pl.lit("an earlier run has this number with, or without, a country code; set country_code")
    return settle(rows, ambiguous, Outcome.REJECTED, "validate.mobile_ambiguous", message)


def _wanted(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """`row`, `key` (the digest of the identifier that is sent), and a column for each of `STRENGTH`."""
    return known.select(rows["row"], of_sent(rows["identifier_type"], known).alias("key"), *STRENGTH)


def ties(known: pl.DataFrame) -> pl.DataFrame:
    """What rows say of who is who: those of them that have several identifiers, each once."""
    return known.filter(with_several(known)).unique()


def still_wanted(rows: pl.DataFrame, digests: Digests) -> pl.DataFrame:
    """
    Rows of a plan as `held_by_history` takes them.

    Args:
        rows: `row`, `identifier_type`, `compare_key` (never null), the columns of `KNOWN_BY`; perhaps `customer`.
        digests: Those of history.
    """
    lazy = rows.lazy().with_columns(pl.col("identifier_type").cast(pl.String))
    wanted = _wanted(rows, digests.of_known(all_known(lazy, "compare_key").collect()))
    if "customer" not in rows.columns:
        return wanted
    return wanted.with_columns(rows.select(digests.of("id", pl.col("customer")).alias("customer"))["customer"])


def held_by_history(
    wanted: pl.DataFrame, tied: pl.DataFrame, history: History, customers: pl.LazyFrame | None = None
) -> tuple[pl.DataFrame, pl.Series]:
    """
    Which rows an earlier run issued, or may have issued.

    Args:
        wanted: `row`; digests: `key`, a column for each of `STRENGTH`, and where `customers` are given `customer`.
        tied: What all rows of the input say of who is who, as `ties` gives it.
        history: Of the target.
        customers: Who is behind history's identifiers where its own lines do not say, `customers.SCHEMA`.

    Returns:
        `row`, `reason` (`dedupe.issued` or `dedupe.unknown`), `message` naming the run; a line for each row held.
        And the rows that would be sent by an identifier which is shared, by the input and history together.
    """
    if history.is_empty():
        return pl.DataFrame(schema=_SAID), pl.Series([], dtype=pl.UInt32)
    lines = history.lines
    held = _held(wanted.lazy(), lines, "key", "")
    by_ties, shared = _held_by_ties(wanted.join(held, on="row", how="anti"), tied, history)
    held = pl.concat([held, by_ties]).sort("row")
    if customers is None:
        return held, shared
    digests = history.digests
    looked_up = customers.select(
        digests.of(pl.col("identifier_type"), pl.col("compare_key")).alias("key"),
        digests.of("id", pl.col("customer_id")).alias("looked_up"),
    ).unique()
    by_customer = lines.join(looked_up, on="key", how="left").with_columns(pl.coalesce("customer", "looked_up"))
    others = wanted.lazy().filter(pl.col("customer").is_not_null()).join(held.lazy(), on="row", how="anti")
    more = _held(others, by_customer, "customer", _ANOTHER)
    return pl.concat([held, more]).sort("row"), shared


def _held_by_ties(wanted: pl.DataFrame, tied: pl.DataFrame, history: History) -> tuple[pl.DataFrame, pl.Series]:
    nothing = pl.DataFrame(schema=_SAID)
    if wanted.is_empty():
        return nothing, pl.Series([], dtype=pl.UInt32)
    mine = wanted.select(STRENGTH)
    past = related(history, pl.concat([mine, tied]), several=not tied.is_empty())
    if past is None or past.is_empty():
        return nothing, pl.Series([], dtype=pl.UInt32)
    ended = ends(pl.concat([mine, all_known(past.lazy()).collect(), tied]))
    kinds = wanted.select(
        pl.coalesce(pl.when(pl.col(kind) == pl.col("key")).then(pl.lit(kind)) for kind in STRENGTH).alias("kind")
    )["kind"]
    end = pl.col("end")
    now = wanted.select("row", of_sent(kinds, ended.head(wanted.height)).alias("end"))
    then = past.with_columns(of_sent(past["identifier_type"], ended.slice(wanted.height, past.height)).alias("end"))
    before = then.filter(end != SHARED)
    if "customer" not in wanted.columns:
        return _held(now.lazy().filter(end != SHARED), before.lazy(), "end", _ANOTHER), now.filter(end == SHARED)["row"]
    # What the service says of an identifier goes before what stands beside it.
    now = now.with_columns(wanted["customer"])
    same = pl.col("customer").is_null() | pl.col("theirs").is_null() | (pl.col("customer") == pl.col("theirs"))
    pairs = now.filter(end != SHARED).join(
        before.select("end", pl.col("customer").alias("theirs"), "outcome", "run"), on="end"
    )
    agreed = pairs.filter(same).with_columns(pl.col("row").alias("_bi_pair"))
    held = _held(
        now.select("row", pl.col("row").alias("_bi_pair")).lazy(),
        agreed.select("_bi_pair", "outcome", "run").lazy(),
        "_bi_pair",
        _ANOTHER,
    )
    return held, now.filter((end == SHARED) & pl.col("customer").is_null())["row"]


def _held(wanted: pl.LazyFrame, issued: pl.LazyFrame, key: str, how: str) -> pl.DataFrame:
    """As `held_by_history`, by the column `key`; `how` goes into the message."""
    # History may be fifty million rows and the input ten thousand: the semi join keeps what matters of it.
    found = (
        issued.select(key, "outcome", "run").join(wanted.select(key), on=key, how="semi").collect(engine="streaming")
    )
    if found.is_empty():
        return pl.DataFrame(schema=_SAID)
    by_customer = found.sort("outcome", "run").group_by(key, maintain_order=True).first()
    certain = pl.col("outcome") == Outcome.SUCCEEDED.value
    return (
        wanted.join(by_customer.lazy(), on=key, how="inner")
        .sort("row")
        .select(
            pl.col("row").cast(pl.UInt32),
            pl.when(certain).then(pl.lit("dedupe.issued")).otherwise(pl.lit("dedupe.unknown")).alias("reason"),
            pl.when(certain)
            .then(pl.format("issued{} in run {}", pl.lit(how), "run"))
            .otherwise(
                pl.format("may have been issued{} in run {}; reconcile or resolve that run first", pl.lit(how), "run")
            )
            .alias("message"),
        )
        .collect()
    )
