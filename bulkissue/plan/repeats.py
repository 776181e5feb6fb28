"""
Repeats: of the rows of one customer the first is sent, and the others say which one that was.

It must never send two rows of one customer, nor leave a customer out because an identifier is shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bulkissue.input.intake import Intake
from bulkissue.job.model import Job
from bulkissue.outcomes import REASONS, STRENGTH, Outcome
from bulkissue.plan import same_number
from bulkissue.plan.identification import beside, known_by, reject_ambiguous, sent_by
from bulkissue.plan.rows import OUTCOME, SLICE, TYPE, apply, row_names, settle
from bulkissue.plan.same_customer import SHARED, all_known, among, ends, of_sent, related, repeated, with_several
from bulkissue.service.routes import ROUTES, routes_of
from bulkissue.state.history import History

_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class Distinct:
    """
    Rows of which each customer stands for the first time, or that have an outcome already.

    Attributes:
        rows: Every row, as a plan has it.
        known: The digests of each row's usable identifiers, as `same_customer.ends` takes them; None where nobody is
            remembered.
        history: What is remembered, with mobiles as the input writes them.
        past: The lines of it that say anything about these customers; None where only a sent identifier itself does.
        contradicted: Rows that the input ties to a customer, and that are another one's by the service.
    """

    rows: pl.DataFrame
    known: pl.DataFrame | None
    history: History
    past: pl.DataFrame | None = None
    contradicted: int = 0


def distinct_identifiers(input_path: Path, intake: Intake, job: Job) -> pl.DataFrame:
    """Every row; without an outcome those whose identifier is usable and stands for the first time."""
    rows = reject_ambiguous(sent_by(input_path, intake, job), job)
    return _settle_repeats(rows.with_columns(pl.lit(None, pl.UInt32).alias("first")), input_path)


def distinct(
    input_path: Path, intake: Intake, job: Job, history: History, customers: pl.LazyFrame | None = None
) -> Distinct:
    """
    Every row; without an outcome those whose identifier is usable and whose customer stands for the first time.

    Args:
        input_path: The run's `input.parquet`.
        intake: What was read into it.
        job: What to do.
        history: Of the target.
        customers: Who is behind identifiers, as the service says, `customers.SCHEMA`; None where it was not asked. What
            it says of an identifier goes before what stands beside it in the input.
    """
    rows = reject_ambiguous(sent_by(input_path, intake, job), job)
    rows = rows.with_columns(pl.lit(None, pl.UInt32).alias("first"))
    known = known_by(input_path, intake, job, rows)
    rows = rows.with_columns(beside(rows, known))
    remembers, alone = not history.is_empty(), known is None
    if known is None:
        if not remembers:
            return Distinct(_settle_repeats(rows, input_path), None, history)
        known = _alone(rows)
    digests: pl.DataFrame | None = None
    past: pl.DataFrame | None = None
    if remembers:
        history = same_number.alike(history, known["mobile"], job.identifiers.calling_code)
        digests = history.digests.of_known(known, history.profile().kinds)
        past = related(history, digests, several=with_several(known).any())
        if alone and (past is None or past.is_empty()):
            return Distinct(_settle_repeats(rows, input_path), digests, history, past)
    before = all_known(history.lines.head(0) if past is None else past.lazy()).collect()
    some = repeated(known.select(STRENGTH))
    if digests is not None:
        some |= among(digests, before)
    chosen = history.digests.of_known(known.filter(some))
    if digests is not None:
        # Identifiers of a type that history does not know matter where they tie a row to another one.
        lines = some.arg_true()
        digests = pl.DataFrame([digests[kind].scatter(lines, chosen[kind]) for kind in STRENGTH])
    found = ends(pl.concat([chosen, before])).head(chosen.height)
    service = None if customers is None else _by_service(rows, customers, history)
    sent, customer = _without_shared(rows, known, some, found, job, input_path=input_path, service=service)
    rows = rows if sent is rows else sent.with_columns(beside(sent, known))
    contradicted = 0
    if service is not None:
        customer, contradicted = _as_the_service_says(customer, service, rows["outcome"].is_null())
    attempts = pl.scan_parquet(input_path, glob=False).select("_bi_attempts").collect().to_series()
    rows = rows.with_columns(customer.alias("customer"), attempts.alias("tried"))
    rows = _settle_repeats(rows, input_path, ("customer",)).drop("customer", "tried")
    return Distinct(rows, digests, history, past, contradicted)


def _by_service(rows: pl.DataFrame, customers: pl.LazyFrame, history: History) -> pl.Series:
    """The customer behind the identifier that each row is sent by, as the service says; a digest, null if unknown."""
    asked = with_customers(rows, customers)
    return asked.select(history.digests.of("id", pl.col("customer")).alias("service"))["service"]


def _as_the_service_says(customer: pl.Series, service: pl.Series, live: pl.Series) -> tuple[pl.Series, int]:
    """
    The customer of each row by its ties, but where the service knows better: rows tied together that are several
    customers to it are several, and an identifier that it knows is nobody's but theirs.

    Returns:
        The customers, and of how many rows the service says another one than the tie.
    """
    frame = pl.DataFrame([customer.alias("tied"), service.alias("service"), live.alias("live")])
    several = (pl.col("service").n_unique() - pl.col("service").is_null().any()) > 1
    shared = (pl.col("tied") == SHARED) & pl.col("service").is_not_null()
    told = frame.with_columns(
        apart=(several.over("tied") & pl.col("tied").is_not_null() & (pl.col("tied") != SHARED) & pl.col("live"))
        & pl.col("service").is_not_null()
    ).with_columns(said=pl.when(pl.col("apart") | shared).then("service").otherwise("tied"))
    first = pl.col("service").first().over("tied")
    contradicted = told.select((pl.col("apart") & (pl.col("service") != first)).sum()).item()
    return told["said"], int(contradicted)


def _alone(rows: pl.DataFrame) -> pl.DataFrame:
    """As `known_by`, of rows that have nothing beside the identifier they are sent by."""
    usable = rows.lazy().with_columns(
        pl.col("identifier_type").cast(pl.String), pl.when(pl.col("outcome").is_null()).then("compare_key")
    )
    written = {f"_bi_{kind}": pl.col(kind) for kind in ("email", "external_id")}
    return all_known(usable, "compare_key").with_columns(**written).collect()


def _without_shared(
    rows: pl.DataFrame,
    known: pl.DataFrame,
    some: pl.Series,
    found: pl.DataFrame,
    job: Job,
    *,
    input_path: Path,
    service: pl.Series | None,
) -> tuple[pl.DataFrame, pl.Series]:
    """
    The rows, sent by an identifier that is not shared, or rejected; and the customer of each (a digest), null where no
    other row can be of the same.

    A row whose preferred identifier is shared goes by the next one of its own that is not, where that needs no other
    source.

    Args:
        rows: Every row.
        known: As `known_by` gives them.
        some: Which rows have an identifier that another one has too.
        found: Where the identifiers of those end.
        job: What is preferred, and what the routes carry.
        input_path: For the rows' names.
        service: As `_by_service` gives it: an identifier that the service knows is not shared.
    """
    line = pl.Series([None], dtype=pl.UInt32).new_from_index(0, rows.height)
    line.scatter(some.arg_true(), pl.int_range(found.height, dtype=pl.UInt32, eager=True))
    ended = found.select(pl.all().gather(line))
    routes = {kind: ROUTES[route].SOURCES for kind, route in routes_of(job).items()}
    kind = pl.col("identifier_type").cast(pl.String)
    customer = of_sent(rows["identifier_type"], ended)
    shared = rows["outcome"].is_null() & (customer == SHARED).fill_null(value=False)
    if service is not None:
        shared &= service.is_null()
    if not shared.any():
        return rows, customer
    other, value, key = (pl.lit(None, pl.String) for _ in range(3))
    end = pl.lit(None, customer.dtype)
    for one in reversed([one for one in job.identifiers.prefer if one in routes]):
        alike = [was for was, sources in routes.items() if sources == routes[one]]
        fits = pl.col(one).is_not_null() & (pl.col(f"{one}_end") != SHARED) & pl.col("identifier_type").is_in(alike)
        sent = pl.col(f"_bi_{one}") if one in {"email", "external_id"} else pl.col(one)
        other = pl.when(fits).then(pl.lit(one)).otherwise(other)
        value, key = pl.when(fits).then(sent).otherwise(value), pl.when(fits).then(pl.col(one)).otherwise(key)
        end = pl.when(fits).then(pl.col(f"{one}_end")).otherwise(end)
    looked = known.hstack(ended.rename({one: f"{one}_end" for one in STRENGTH})).hstack(rows.select(kind))
    found = looked.select(other=other, value=value, key=key, end=end)
    goes = shared & found["other"].is_not_null()
    reason = "dedupe.shared_identifier"
    rows = rows.with_columns(
        pl.when(goes).then(found["other"].cast(TYPE)).otherwise("identifier_type").alias("identifier_type"),
        pl.when(goes).then(found["value"]).otherwise("identifier").alias("identifier"),
        pl.when(goes).then(found["key"]).otherwise("compare_key").alias("compare_key"),
        pl.when(goes).then(pl.format("{}:{}", kind, pl.lit(reason))).otherwise("passed_over").alias("passed_over"),
    )
    customer = pl.select(pl.when(goes).then(found["end"]).otherwise(customer).alias("customer"))["customer"]
    nobody = shared & ~goes
    message = pl.lit(_who_shares(rows.filter(nobody), known, input_path, rows.height))
    return settle(rows, nobody, Outcome.REJECTED, reason, message), customer


def _who_shares(rejected: pl.DataFrame, known: pl.DataFrame, input_path: Path, height: int) -> pl.Series:
    """What is said of rows whose identifier is shared: which rows have it too; a line for each of all rows."""
    parts = []
    for kind in STRENGTH:
        sent = rejected.lazy().filter(pl.col("identifier_type") == kind)
        mine = sent.select("row", pl.col("compare_key").alias("key"))
        # Of a million rows that share an email a few are named: they are counted before they are laid beside each row.
        carriers = (
            known.lazy()
            .select(pl.col(kind).alias("key"))
            .with_row_index("other")
            .join(mine, on="key", how="semi")
            .group_by("key")
            .agg(pl.col("other").bottom_k(_NAMED_ROWS + 1), pl.len().alias("all"))
        )
        parts.append(mine.join(carriers, on="key").drop("key"))
    found = pl.concat(parts).collect().explode("other", empty_as_null=True, keep_nulls=True)
    names = row_names(input_path, found["other"].drop_nulls().unique())
    others = found.filter(pl.col("row") != pl.col("other")).join(names, left_on="other", right_on="row")
    told = others.sort("row", "other").group_by("row").agg(pl.col("name").head(_NAMED_ROWS), pl.col("all").first())
    more = pl.col("all").cast(pl.Int64) - 1 - _NAMED_ROWS
    said = told.select(
        "row",
        message=pl.format(
            REASONS["dedupe.shared_identifier"] + "; it stands also at {}{}",
            pl.col("name").list.join(", "),
            pl.when(more > 0).then(pl.format(" and {} more", more)).otherwise(pl.lit("")),
        ),
    )
    generic = pl.Series([REASONS["dedupe.shared_identifier"]], dtype=pl.String).new_from_index(0, height)
    return generic.scatter(said["row"], said["message"]) if said.height else generic


def _settle_repeats(
    rows: pl.DataFrame, input_path: Path, key: Sequence[str] = ("identifier_type", "compare_key")
) -> pl.DataFrame:
    """
    Of several rows for one customer the first is sent; where they disagree about source or account, none.

    Args:
        rows: Every row; where `key` is `customer`, with `tried`: how often a row was sent by earlier runs. One that
            never was goes before the others.
        input_path: For the rows' names.
        key: What is alike for the rows of one customer.
    """
    # A hash only nominates: two customers may share one. Equality of the key decides below.
    order = ["tried"] if "tried" in rows.columns else []
    live = rows.filter(pl.col("outcome").is_null()).select(
        "row", "identifier_type", "compare_key", "source", "account_id", *set(key) & {"customer"}, *order
    )
    live = live.drop_nulls(list(key))
    hashes = live.select(pl.struct(key).hash()).to_series()
    ordered = hashes.sort()
    shared = ordered.filter(ordered == ordered.shift())
    if shared.is_empty():
        return rows
    differs = pl.any_horizontal(pl.col(name) != pl.col(name).first() for name in ("source", "account_id"))
    same = pl.any_horizontal(pl.col(name) != pl.col(name).first() for name in ("identifier_type", "compare_key"))
    repeated = (
        live.filter(hashes.is_in(shared.unique().implode()))
        .sort(*order, "row")
        .select(
            "row",
            first=pl.col("row").first().over(key),
            members=pl.len().over(key),
            conflict=differs.any().over(key),
            other=same.over(key),
        )
        .sort("row")
        .filter(pl.col("members") > 1)
    )
    conflicts = repeated.filter("conflict")
    duplicates = repeated.filter(~pl.col("conflict"), pl.col("row") != pl.col("first"))
    names = row_names(input_path, pl.concat([conflicts["row"], duplicates["first"].unique()]))
    settled = [_duplicates(duplicates, names)]
    if conflicts.height:
        settled.append(_conflicts(conflicts.join(names, on="row", how="left")))
    firsts = duplicates.filter("other").select("row", pl.col("first").alias("new_first"))
    if firsts.height:
        found = rows.select("row").join(firsts, on="row", how="left", maintain_order="left")
        rows = rows.with_columns(found["new_first"].alias("first"))
    return apply(rows, pl.concat(settled))


def _duplicates(rows: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """What becomes of rows (`row`, `other`) that repeat another (`first`); for `apply`."""
    tie = pl.lit(" under another identifier, by those that stand beside each other in the input")
    return rows.join(names, left_on="first", right_on="row", how="left").select(
        "row",
        pl.lit(Outcome.DUPLICATE.value, OUTCOME).alias("new_outcome"),
        pl.when("other")
        .then(pl.lit("dedupe.same_customer"))
        .otherwise(pl.lit("dedupe.same_identifier"))
        .alias("new_reason"),
        pl.format("the same customer stands at {}{}", "name", pl.when("other").then(tie).otherwise(pl.lit(""))).alias(
            "new_message"
        ),
    )


def _conflicts(rows: pl.DataFrame) -> pl.DataFrame:
    """What becomes of rows (`row`, `name`) that contradict others of their group (`first`, `members`); for `apply`."""
    named = rows.sort("row").group_by("first").agg(pl.col("name").head(_NAMED_ROWS + 1).alias("names"))
    others = pl.col("names").list.set_difference(pl.concat_list("name")).list.head(_NAMED_ROWS).list.join(", ")
    more = pl.col("members") - _NAMED_ROWS - 1
    settled = (
        "row",
        pl.lit(Outcome.REJECTED.value, OUTCOME).alias("new_outcome"),
        pl.lit("dedupe.conflict").alias("new_reason"),
        pl.format(
            "another source or account for the same customer stands at {}{}",
            others,
            pl.when(pl.col("members") > _NAMED_ROWS + 1).then(pl.format(" and {} more", more)).otherwise(pl.lit("")),
        ).alias("new_message"),
    )
    # The lists of names take room: not of all rows at once.
    return pl.concat(part.join(named, on="first", how="left").select(settled) for part in rows.iter_slices(SLICE))


def with_customers(rows: pl.DataFrame, customers: pl.LazyFrame) -> pl.DataFrame:
    """The rows with `customer`, the service's own id (String); null where it is not known."""
    key = ["identifier_type", "compare_key", "source", "account_id"]
    return (
        rows.lazy()
        .with_columns(pl.col("identifier_type").cast(pl.String))
        .join(customers, on=key, how="left", maintain_order="left")
        .with_columns(
            pl.col("identifier_type").cast(TYPE),
            pl.when(pl.col("identifier_type") == "id").then("compare_key").otherwise("customer_id").alias("customer"),
        )
        .drop("customer_id")
        .collect()
    )


def settle_same_customer(rows: pl.DataFrame, input_path: Path) -> pl.DataFrame:
    """Of several identifiers of one customer the first is sent."""
    live = rows.lazy().filter(pl.col("outcome").is_null(), pl.col("customer").is_not_null())
    repeats = (
        live.select("row", pl.col("row").min().over("customer").alias("first"))
        .filter(pl.col("row") > pl.col("first"))
        .collect()
    )
    if repeats.is_empty():
        return rows
    names = row_names(input_path, repeats["first"].unique().alias("row"))
    settled = repeats.join(names, left_on="first", right_on="row", how="left").select(
        "row",
        pl.lit(Outcome.DUPLICATE.value, OUTCOME).alias("new_outcome"),
        pl.lit("dedupe.same_customer").alias("new_reason"),
        pl.format("the same customer stands at {} under another identifier", "name").alias("new_message"),
    )
    found = rows.select("row").join(repeats, on="row", how="left", maintain_order="left", suffix="_new")
    return apply(rows.with_columns(pl.coalesce(found["first"], "first").alias("first")), settled)
