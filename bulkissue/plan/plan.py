"""
The plan: every row either settled before anything is sent, or in exactly one batch.

Pure but for the two Parquet files it reads and writes: the same input, job, history and versions give
the same plan, byte for byte. It must never depend on a clock, a run id or the order of threads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bulkissue.errors import InputRefused
from bulkissue.exchange import Batch
from bulkissue.files import replacing_path
from bulkissue.input.identifiers import ambiguous_mobiles, identified
from bulkissue.input.intake import Intake
from bulkissue.job.model import Job
from bulkissue.outcomes import IDENTIFIER_TYPES, KNOWN_BY, REASONS, STRENGTH, Outcome
from bulkissue.plan.same_customer import SHARED, all_known, end_of_sent, ends, entangled, related
from bulkissue.service.routes import ROUTES, routes_of
from bulkissue.state.journal import SENT
from bulkissue.state.register import HISTORY_SCHEMA

_TYPE = pl.Enum(IDENTIFIER_TYPES)
_OUTCOME = pl.Enum([outcome.value for outcome in Outcome])

_NULL_WHERE_EMPTY = ("source", "account_id")

#: plan.parquet, one line for each row of input.parquet and in its order. `compare_key` is null where it
#: equals `identifier`; `outcome`, `reason` and `message` are null where the row is to be sent, `batch` where not.
#: The columns of `KNOWN_BY` are the compare keys of the identifiers that the row has beside the one it is sent by.
#: `first` is the row that is sent for the customer of a duplicate under another identifier, else null.
#: In the file `source` and `account_id` are null where they are empty.
PLAN_SCHEMA = pl.Schema(
    {
        "row": pl.UInt32(),
        "identifier_type": _TYPE,
        "identifier": pl.String(),
        "compare_key": pl.String(),
        "source": pl.String(),
        "account_id": pl.String(),
        "outcome": _OUTCOME,
        "reason": pl.String(),
        "message": pl.String(),
        "batch": pl.UInt32(),
        "first": pl.UInt32(),
        **{name: pl.String() for name in KNOWN_BY.values()},
    }
)

_ROW_GROUP = 1 << 17
_SLICE = 1 << 19
_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one identifier type that are to be sent: batches `first` to `last`, both included."""

    identifier_type: str
    route: str
    rows: int
    first: int
    last: int

    @property
    def batches(self) -> int:
        """How many requests the group takes, if none is sent twice."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What a plan says, in numbers."""

    rows: int
    groups: tuple[Group, ...]
    outcomes: dict[str, int]
    reasons: dict[str, int]

    @property
    def requests(self) -> int:
        """Requests to send, if none is sent twice."""
        return sum(group.batches for group in self.groups)

    @property
    def to_send(self) -> int:
        """Rows to send."""
        return sum(group.rows for group in self.groups)


def draw(
    input_path: Path,
    intake: Intake,
    job: Job,
    issued: pl.LazyFrame,
    *,
    limit: int | None,
    out: Path,
    customers: pl.LazyFrame | None = None,
) -> Plan:
    """
    Plan a run and write `plan.parquet`.

    Args:
        input_path: The run's `input.parquet`.
        intake: What was read into it.
        job: What to do.
        issued: This target's history, `register.HISTORY_SCHEMA`.
        limit: Send at most so many rows, the first ones; None for all.
        out: Where the plan goes.
        customers: Who is behind other identifiers than ids, `customers.SCHEMA`; None not to ask who is the same.

    Raises:
        InputRefused: A file has no column the job can use.
    """
    rows = plan_rows(input_path, intake, job, issued, limit=limit, customers=customers)
    with replacing_path(out) as path:
        # Polars takes long over empty text.
        written = rows.with_columns(pl.when(pl.col(name) != "").then(name) for name in _NULL_WHERE_EMPTY)
        written.write_parquet(path, compression="lz4", statistics=False, row_group_size=_ROW_GROUP)
    return summarise(rows, job)


def plan_rows(
    input_path: Path,
    intake: Intake,
    job: Job,
    issued: pl.LazyFrame,
    *,
    limit: int | None,
    customers: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """As `draw`, without writing: columns of `PLAN_SCHEMA`, every input row once, in order."""
    rows = _distinct(input_path, intake, job, issued)
    if customers is not None:
        rows = _settle_same_customer(_with_customers(rows, customers), input_path)
    rows = _settle_issued(rows, issued, customers)
    rows = _leave_out(rows, limit)
    return _cut(rows, job).select(pl.col(name).cast(dtype) for name, dtype in PLAN_SCHEMA.items())


def customers_of(input_path: Path, intake: Intake, job: Job) -> pl.DataFrame:
    """
    Every usable identifier of the input once, before history is asked.

    Returns:
        `row` (its first), `identifier_type` (String), `identifier`, `compare_key`, `source`, `account_id`; in order.
    """
    nobody = pl.LazyFrame(schema=HISTORY_SCHEMA)
    rows = _distinct(input_path, intake, job, nobody).filter(pl.col("outcome").is_null())
    kind = pl.col("identifier_type").cast(pl.String)
    return rows.select("row", kind, "identifier", "compare_key", "source", "account_id")


def _distinct(input_path: Path, intake: Intake, job: Job, issued: pl.LazyFrame) -> pl.DataFrame:
    """Every row; without an outcome those whose identifier is usable and whose customer stands for the first time."""
    rows = _reject_ambiguous(_identified(input_path, intake, job), job)
    rows = rows.with_columns(pl.lit(None, pl.UInt32).alias("first"))
    known = _known_by(input_path, intake, job, rows)
    rows = rows.with_columns(_beside(rows, known))
    alone = known is None
    if known is None:
        usable = rows.lazy().filter(pl.col("outcome").is_null()).with_columns(pl.col("identifier_type").cast(pl.String))
        known = all_known(usable).collect()
    past = related(issued, known.select(STRENGTH))
    if alone and past.is_empty():
        return _settle_repeats(rows, input_path)
    if alone:
        usable = rows.lazy().with_columns(
            pl.col("identifier_type").cast(pl.String), pl.when(pl.col("outcome").is_null()).then("compare_key")
        )
        known = (
            all_known(usable)
            .collect()
            .with_columns(pl.col("email").alias("_bi_email"), pl.col("external_id").alias("_bi_external_id"))
        )
    rows, customer = _without_shared(rows, known, all_known(past.lazy()).collect(), job)
    rows = rows.with_columns(_beside(rows, known))
    attempts = pl.scan_parquet(input_path, glob=False).select("_bi_attempts").collect().to_series()
    rows = rows.with_columns(customer.alias("customer"), attempts.alias("tried"))
    return _settle_repeats(rows, input_path, ("customer",)).drop("customer", "tried")


def _known_by(input_path: Path, intake: Intake, job: Job, rows: pl.DataFrame) -> pl.DataFrame | None:
    """
    The compare keys of every row's usable identifiers; None where no row can have more than one.

    Args:
        input_path: The run's `input.parquet`.
        intake: What was read into it.
        job: How identifiers are read.
        rows: Every row as `_identified` gives it.

    Returns:
        A column for each of `STRENGTH` (String, null where the row has none), in the order of `rows`; and
        `_bi_email` and `_bi_external_id`, as they would be sent.
    """
    wide = [file for file in intake.files if file.form == "wide" and len(set(file.columns) & set(STRENGTH)) > 1]
    if not wide:
        return None
    parts, offset = [], 0
    cells = pl.scan_parquet(input_path, glob=False)
    for file in intake.files:
        kinds = [kind for kind in STRENGTH if kind in file.columns] if file in wide else []
        for start in range(offset, offset + file.rows, _SLICE):
            size = min(_SLICE, offset + file.rows - start)
            sent = rows.slice(start, size)
            usable = pl.col("outcome").is_null()
            part = sent.select(
                pl.when(usable, pl.col("identifier_type") == kind).then("compare_key").alias(kind) for kind in STRENGTH
            )
            nothing = pl.Series([None], dtype=pl.String).new_from_index(0, part.height)
            written = {f"_bi_{kind}": nothing for kind in ("email", "external_id")}
            for kind in kinds:
                needed = [file.columns[kind], "_bi_reason", "_bi_message"]
                alone = job.identifiers.model_copy(update={"prefer": [kind]})
                read = cells.select(needed).slice(start, size).collect()
                found = identified(read, {kind: file.columns[kind]}, "wide", alone, {kind: None})
                part = part.with_columns(pl.coalesce(kind, found["compare_key"]).alias(kind))
                if kind in {"email", "external_id"}:
                    written[f"_bi_{kind}"] = found["identifier"]
            parts.append(part.with_columns(**written))
        offset += file.rows
    return pl.concat(parts) if parts else None


def _beside(rows: pl.DataFrame, known: pl.DataFrame | None) -> list[pl.Series]:
    """The columns of `KNOWN_BY`."""
    if known is None:
        nothing = pl.Series([None], dtype=pl.String).new_from_index(0, rows.height)
        return [nothing.alias(name) for name in KNOWN_BY.values()]
    others = [
        pl.when(rows["identifier_type"].cast(pl.String).ne_missing(kind)).then(pl.col(kind)).alias(name)
        for kind, name in KNOWN_BY.items()
    ]
    return known.select(others).get_columns()


def _without_shared(
    rows: pl.DataFrame, known: pl.DataFrame, past: pl.DataFrame, job: Job
) -> tuple[pl.DataFrame, pl.Series]:
    """
    The rows, sent by an identifier that is not shared, or rejected; and the customer of each (String), null where no
    other row can be of the same.

    A row whose preferred identifier is shared goes by the next one of its own that is not, where that needs no other
    source.
    """
    known_by = known.select(STRENGTH)
    some = entangled(known_by, past)
    found = ends(pl.concat([known_by.filter(some), past])).head(int(some.sum()))
    line = pl.Series([None], dtype=pl.UInt32).new_from_index(0, rows.height)
    line.scatter(some.arg_true(), pl.int_range(found.height, dtype=pl.UInt32, eager=True))
    ended = found.select(pl.all().gather(line))
    routes = {kind: ROUTES[route].SOURCES for kind, route in routes_of(job).items()}
    kind = pl.col("identifier_type").cast(pl.String)
    customer = end_of_sent(rows, ended)
    shared = rows["outcome"].is_null() & (customer == SHARED).fill_null(value=False)
    if not shared.any():
        return rows, customer
    other, value, key, end = (pl.lit(None, pl.String) for _ in range(4))
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
        pl.when(goes).then(found["other"].cast(_TYPE)).otherwise("identifier_type").alias("identifier_type"),
        pl.when(goes).then(found["value"]).otherwise("identifier").alias("identifier"),
        pl.when(goes).then(found["key"]).otherwise("compare_key").alias("compare_key"),
    )
    customer = pl.select(pl.when(goes).then(found["end"]).otherwise(customer).alias("customer"))["customer"]
    return _settle(rows, shared & ~goes, Outcome.REJECTED, reason, pl.lit(REASONS[reason])), customer


def _identified(input_path: Path, intake: Intake, job: Job) -> pl.DataFrame:
    """Every row with its identifier or the reason why it has none. Each file by its own columns."""
    carried = {kind: ROUTES[route].SOURCES for kind, route in routes_of(job).items()}
    parts, offset = [], 0
    for file in intake.files:
        if file.form == "values" and job.identifiers.default_type is None:
            raise InputRefused(
                f"{file.name} has identifiers without their type",
                hint="set [identifiers] default_type, or name the column under [input.columns], as in mobile = "
                f'"{next(iter(file.columns.values()), "…")}"',
            )
        preferred = job.identifiers.prefer
        if file.form == "wide" and not any(kind in file.columns for kind in preferred):
            raise InputRefused(
                f"{file.name} has no column for {' or '.join(preferred)}, and [identifiers] prefer names no other type",
                hint=f"add {' or '.join(kind for kind in IDENTIFIER_TYPES if kind in file.columns)} to prefer",
            )
        needed = [*dict.fromkeys(file.columns.values()), "_bi_reason", "_bi_message"]
        cells = pl.scan_parquet(input_path, glob=False).select(needed)
        for start in range(offset, offset + max(file.rows, 1), _SLICE):
            part = cells.slice(start, min(_SLICE, offset + file.rows - start)).collect()
            parts.append(identified(part, file.columns, file.form, job.identifiers, carried))
        offset += file.rows
    rows = pl.concat(parts)
    return rows.with_columns(
        pl.when(pl.col("reason").is_not_null()).then(pl.lit(Outcome.REJECTED.value, _OUTCOME)).alias("outcome"),
    ).with_row_index("row")


def _reject_ambiguous(rows: pl.DataFrame, job: Job) -> pl.DataFrame:
    ambiguous = ambiguous_mobiles(rows, job.identifiers)
    reason = "validate.mobile_ambiguous"
    return _settle(rows, ambiguous, Outcome.REJECTED, reason, pl.lit(REASONS[reason]))


def _settle(
    rows: pl.DataFrame, mask: pl.Series, outcome: Outcome, reason: str | pl.Expr, message: pl.Expr
) -> pl.DataFrame:
    """Give the rows under `mask` their outcome; the others keep what they have."""
    if not mask.any():
        return rows
    chosen = pl.lit(mask)
    reason_expr = pl.lit(reason) if isinstance(reason, str) else reason
    return rows.with_columns(
        pl.when(chosen).then(pl.lit(outcome.value, _OUTCOME)).otherwise("outcome").alias("outcome"),
        pl.when(chosen).then(reason_expr).otherwise("reason").alias("reason"),
        pl.when(chosen).then(message).otherwise("message").alias("message"),
    )


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
    names = _row_names(input_path, pl.concat([conflicts["row"], duplicates["first"].unique()]))
    settled = [_duplicates(duplicates, names)]
    if conflicts.height:
        settled.append(_conflicts(conflicts.join(names, on="row", how="left")))
    firsts = duplicates.filter("other").select("row", pl.col("first").alias("new_first"))
    if firsts.height:
        found = rows.select("row").join(firsts, on="row", how="left", maintain_order="left")
        rows = rows.with_columns(found["new_first"].alias("first"))
    return _apply(rows, pl.concat(settled))


def _duplicates(rows: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """What becomes of rows (`row`, `other`) that repeat another (`first`); for `_apply`."""
    tie = pl.lit(" under another identifier, by those that stand beside each other in the input")
    return rows.join(names, left_on="first", right_on="row", how="left").select(
        "row",
        pl.lit(Outcome.DUPLICATE.value, _OUTCOME).alias("new_outcome"),
        pl.when("other")
        .then(pl.lit("dedupe.same_customer"))
        .otherwise(pl.lit("dedupe.same_identifier"))
        .alias("new_reason"),
        pl.format("the same customer stands at {}{}", "name", pl.when("other").then(tie).otherwise(pl.lit(""))).alias(
            "new_message"
        ),
    )


def _conflicts(rows: pl.DataFrame) -> pl.DataFrame:
    """What becomes of rows (`row`, `name`) that contradict others of their group (`first`, `members`); for `_apply`."""
    named = rows.sort("row").group_by("first").agg(pl.col("name").head(_NAMED_ROWS + 1).alias("names"))
    others = pl.col("names").list.set_difference(pl.concat_list("name")).list.head(_NAMED_ROWS).list.join(", ")
    more = pl.col("members") - _NAMED_ROWS - 1
    settled = (
        "row",
        pl.lit(Outcome.REJECTED.value, _OUTCOME).alias("new_outcome"),
        pl.lit("dedupe.conflict").alias("new_reason"),
        pl.format(
            "another source or account for the same customer stands at {}{}",
            others,
            pl.when(pl.col("members") > _NAMED_ROWS + 1).then(pl.format(" and {} more", more)).otherwise(pl.lit("")),
        ).alias("new_message"),
    )
    # The lists of names take room: not of all rows at once.
    return pl.concat(part.join(named, on="first", how="left").select(settled) for part in rows.iter_slices(_SLICE))


def _apply(rows: pl.DataFrame, settled: pl.DataFrame) -> pl.DataFrame:
    """Give the rows named in `settled` (row, new_outcome, new_reason, new_message) their outcome."""
    if settled.is_empty():
        return rows
    found = rows.select("row").join(settled, on="row", how="left", maintain_order="left")
    return rows.with_columns(
        pl.coalesce(pl.lit(found[f"new_{name}"]), name).alias(name) for name in ("outcome", "reason", "message")
    )


def name_of(input_path: Path, row: int) -> str:
    """A row as messages name it."""
    return str(_row_names(input_path, pl.Series([row], dtype=pl.UInt32))["name"][0])


def _row_names(input_path: Path, wanted: pl.Series) -> pl.DataFrame:
    """Rows as messages name them, `FILE row N`: columns `row`, `name`."""
    return (
        pl.scan_parquet(input_path, glob=False)
        .select("_bi_source_file", "_bi_row")
        .with_row_index("row")
        .join(wanted.to_frame("row").lazy(), on="row", how="semi")
        .select("row", pl.format("{} row {}", "_bi_source_file", "_bi_row").alias("name"))
        .collect(engine="streaming")
    )


def _with_customers(rows: pl.DataFrame, customers: pl.LazyFrame) -> pl.DataFrame:
    """The rows with `customer`, the service's own id (String); null where it is not known."""
    key = ["identifier_type", "compare_key", "source", "account_id"]
    return (
        rows.lazy()
        .with_columns(pl.col("identifier_type").cast(pl.String))
        .join(customers, on=key, how="left", maintain_order="left")
        .with_columns(
            pl.col("identifier_type").cast(_TYPE),
            pl.when(pl.col("identifier_type") == "id").then("compare_key").otherwise("customer_id").alias("customer"),
        )
        .drop("customer_id")
        .collect()
    )


def _settle_same_customer(rows: pl.DataFrame, input_path: Path) -> pl.DataFrame:
    """Of several identifiers of one customer the first is sent."""
    live = rows.lazy().filter(pl.col("outcome").is_null(), pl.col("customer").is_not_null())
    repeats = (
        live.select("row", pl.col("row").min().over("customer").alias("first"))
        .filter(pl.col("row") > pl.col("first"))
        .collect()
    )
    if repeats.is_empty():
        return rows
    names = _row_names(input_path, repeats["first"].unique().alias("row"))
    settled = repeats.join(names, left_on="first", right_on="row", how="left").select(
        "row",
        pl.lit(Outcome.DUPLICATE.value, _OUTCOME).alias("new_outcome"),
        pl.lit("dedupe.same_customer").alias("new_reason"),
        pl.format("the same customer stands at {} under another identifier", "name").alias("new_message"),
    )
    found = rows.select("row").join(repeats, on="row", how="left", maintain_order="left", suffix="_new")
    return _apply(rows.with_columns(pl.coalesce(found["first"], "first").alias("first")), settled)


def _settle_issued(rows: pl.DataFrame, issued: pl.LazyFrame, customers: pl.LazyFrame | None) -> pl.DataFrame:
    """Rows whose customer an earlier run issued, or may have issued, are not sent."""
    named = [] if customers is None else ["customer"]
    live = rows.filter(pl.col("outcome").is_null()).select(
        "row", "identifier_type", "compare_key", *named, *KNOWN_BY.values()
    )
    held, shared = held_by_history(live, rows, issued, customers)
    rows = _apply(
        rows,
        held.select(
            "row",
            pl.lit(Outcome.ALREADY_ISSUED.value, _OUTCOME).alias("new_outcome"),
            pl.col("reason").alias("new_reason"),
            pl.col("message").alias("new_message"),
        ),
    )
    reason = "dedupe.shared_identifier"
    return _settle(rows, rows["row"].is_in(shared.implode()), Outcome.REJECTED, reason, pl.lit(REASONS[reason]))


def _ties_of(rows: pl.DataFrame) -> pl.DataFrame:
    """What rows of a plan say of who is who: a column for each of `STRENGTH`, a line for each row with several."""
    several = pl.any_horizontal(pl.col(name).is_not_null() for name in KNOWN_BY.values())
    return (
        rows.lazy()
        .filter(several & pl.col("identifier_type").is_not_null())
        .with_columns(
            pl.col("identifier_type").cast(pl.String), pl.coalesce("compare_key", "identifier").alias("compare_key")
        )
        .pipe(all_known)
        .unique()
        .collect()
    )


def held_by_history(
    rows: pl.DataFrame, plan: pl.DataFrame, issued: pl.LazyFrame, customers: pl.LazyFrame | None = None
) -> tuple[pl.DataFrame, pl.Series]:
    """
    Which rows an earlier run issued, or may have issued.

    Args:
        rows: `row`, `identifier_type`, `compare_key`, the columns of `KNOWN_BY`; and where `customers` are given,
            `customer`.
        plan: All rows of the plan, for what they say of who is who: `identifier_type`, `identifier`, `compare_key` and
            the columns of `KNOWN_BY`.
        issued: `register.HISTORY_SCHEMA`.
        customers: Who is behind history's identifiers where its own lines do not say, `customers.SCHEMA`.

    Returns:
        `row`, `reason` (`dedupe.issued` or `dedupe.unknown`), `message` naming the run; a line for each row held.
        And the rows that would be sent by an identifier which is shared, by the input and history together.
    """
    key = ["identifier_type", "compare_key"]
    sent_by = rows.with_columns(pl.col("identifier_type").cast(pl.String))
    wanted = sent_by.lazy()
    held = _held(wanted, issued, key, "")
    by_ties, shared = _held_by_ties(sent_by.join(held, on="row", how="anti"), plan, issued)
    held = pl.concat([held, by_ties]).sort("row")
    if customers is None:
        return held, shared
    looked_up = customers.select(*key, "customer_id").unique().rename({"customer_id": "looked_up"})
    said = (
        pl.when(pl.col("customer_id") != "")
        .then("customer_id")
        .when(pl.col("identifier_type") == "id")
        .then("compare_key")
        .otherwise("looked_up")
    )
    by_customer = issued.join(looked_up, on=key, how="left").with_columns(said.alias("customer"))
    others = wanted.filter(pl.col("customer").is_not_null()).join(held.lazy(), on="row", how="anti")
    more = _held(others, by_customer, ["customer"], " to the same customer under another identifier")
    return pl.concat([held, more]).sort("row"), shared


def _held_by_ties(rows: pl.DataFrame, plan: pl.DataFrame, issued: pl.LazyFrame) -> tuple[pl.DataFrame, pl.Series]:
    """As `held_by_history`, for rows whose customer was sent to under another identifier."""
    nothing = pl.DataFrame(schema={"row": pl.UInt32, "reason": pl.String, "message": pl.String})
    if rows.is_empty() or issued.head(1).collect().is_empty():
        return nothing, pl.Series([], dtype=pl.UInt32)
    mine, ties = all_known(rows.lazy()).collect(), _ties_of(plan)
    past = related(issued, pl.concat([mine, ties]))
    if past.is_empty():
        return nothing, pl.Series([], dtype=pl.UInt32)
    ended = ends(pl.concat([mine, all_known(past.lazy()).collect(), ties]))
    wanted = rows.select("row", end_of_sent(rows, ended.head(rows.height)))
    then = past.with_columns(end_of_sent(past, ended.slice(rows.height, past.height)))
    shared = wanted.filter(pl.col("customer") == SHARED)["row"]
    sent, before = (frame.lazy().filter(pl.col("customer") != SHARED) for frame in (wanted, then))
    return _held(sent, before, ["customer"], " to the same customer under another identifier"), shared


def _held(wanted: pl.LazyFrame, issued: pl.LazyFrame, key: list[str], how: str) -> pl.DataFrame:
    """As `held_by_history`, by the columns `key`; `how` goes into the message."""
    # History may be fifty million rows and the input ten thousand: the semi join keeps what matters of it.
    found = (
        issued.select(*key, "outcome", "run").join(wanted.select(key), on=key, how="semi").collect(engine="streaming")
    )
    if found.is_empty():
        return pl.DataFrame(schema={"row": pl.UInt32, "reason": pl.String, "message": pl.String})
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


def _leave_out(rows: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    if limit is None:
        return rows
    live = rows["outcome"].is_null()
    beyond = live & (live.cast(pl.UInt32).cum_sum() > limit)
    return _settle(rows, beyond, Outcome.NOT_ATTEMPTED, "guard.limit", pl.lit(REASONS["guard.limit"]))


def _cut(rows: pl.DataFrame, job: Job) -> pl.DataFrame:
    """Number the batches: by identifier type in the closed list's order, within a type in input order."""
    live = rows["outcome"].is_null()
    batch = pl.lit(None, pl.UInt32)
    done = 0
    for kind, route in _in_order(routes_of(job)):
        chosen = live & (rows["identifier_type"] == kind)
        if not (count := int(chosen.sum())):
            continue
        size = min(job.api.limits.batch_size, ROUTES[route].MAX_ROWS)
        number = (chosen.cast(pl.UInt32).cum_sum() - 1) // size + done + 1
        batch = pl.when(pl.lit(chosen)).then(pl.lit(number)).otherwise(batch)
        done += -(-count // size)
    same = pl.col("compare_key") == pl.col("identifier")
    return rows.with_columns(
        batch.alias("batch"), pl.when(same).then(None).otherwise("compare_key").alias("compare_key")
    )


def _in_order(routes: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(kind, routes[kind]) for kind in IDENTIFIER_TYPES if kind in routes]


def summarise(rows: pl.DataFrame, job: Job) -> Plan:
    """A plan in numbers; `rows` as `plan_rows` gives them."""
    routes = routes_of(job)
    live = (
        rows.select("identifier_type", "batch")
        .filter(pl.col("batch").is_not_null())
        .group_by("identifier_type")
        .agg(pl.len(), pl.col("batch").min().alias("first"), pl.col("batch").max().alias("last"))
        .sort("first")
    )
    groups = tuple(Group(kind, routes[kind], count, first, last) for kind, count, first, last in live.iter_rows())
    settled = rows.select("outcome", "reason").filter(pl.col("outcome").is_not_null())
    return Plan(
        rows=rows.height,
        groups=groups,
        outcomes=dict(settled.group_by("outcome").len().sort("outcome").iter_rows()),
        reasons=dict(settled.group_by("reason").len().sort("reason").iter_rows()),
    )


def examples(path: Path, input_path: Path, most: int = 3) -> pl.DataFrame:
    """
    Why rows would not be sent, with examples.

    Returns:
        For each outcome and reason that the plan settles: `outcome`, `reason`, `rows` (how many), `names`
        (some of them, as messages name rows), `message` (the first one's).
    """
    settled = pl.scan_parquet(path, glob=False).filter(pl.col("outcome").is_not_null())
    found = (
        settled.group_by("outcome", "reason")
        .agg(pl.len().alias("rows"), pl.col("row").head(most), pl.col("message").first())
        .sort("outcome", "reason")
        .collect()
    )
    flat = found.explode("row", empty_as_null=True, keep_nulls=True)
    named = flat.join(_row_names(input_path, flat["row"]), on="row", how="left", maintain_order="left")
    return named.group_by("outcome", "reason", maintain_order=True).agg(
        pl.col("rows").first(), pl.col("name").alias("names"), pl.col("message").first()
    )


def load(path: Path, job: Job) -> Plan:
    """The numbers of a plan written earlier."""
    return summarise(pl.read_parquet(path, columns=["identifier_type", "outcome", "reason", "batch"]), job)


def largest(plan: Plan, job: Job) -> int:
    """Rows in the plan's largest batch: what one lost answer can make unknown."""
    size = job.api.limits.batch_size
    return max((min(size, ROUTES[group.route].MAX_ROWS, group.rows) for group in plan.groups), default=0)


def left(path: Path, settled: bytearray) -> tuple[int, int]:
    """How many rows, in how many batches, `batches` would yield."""
    planned = pl.read_parquet(path, columns=["batch"]).to_series()
    unsent = planned.filter(_unsent(settled)).drop_nulls()
    return unsent.len(), unsent.n_unique()


def hold(path: Path, settled: bytearray, issued: pl.LazyFrame, customers: pl.LazyFrame | None = None) -> pl.DataFrame:
    """
    Which rows still to be sent another run has issued, or may have: columns as `held_by_history`.

    Args:
        path: `plan.parquet`.
        settled: One byte for each row, 2 where it is not to be sent any more (`journal.SENT`).
        issued: The target's history without this run.
        customers: As for `draw`.
    """
    columns = ["row", "identifier_type", "identifier", "compare_key", "batch", *KNOWN_BY.values()]
    if customers is not None:
        columns += _NULL_WHERE_EMPTY
    planned = pl.read_parquet(path, columns=columns)
    left_over = (
        planned.filter(_unsent(settled) & pl.col("batch").is_not_null())
        .with_columns(pl.coalesce("compare_key", "identifier").alias("compare_key"))
        .drop("identifier", "batch")
    )
    if customers is not None:
        left_over = _with_customers(left_over.with_columns(pl.col(_NULL_WHERE_EMPTY).fill_null("")), customers)
        left_over = left_over.drop(_NULL_WHERE_EMPTY)
    held, _ = held_by_history(left_over, planned, issued, customers)
    return held


def _unsent(settled: bytearray, start: int = 0, stop: int | None = None) -> pl.Series:
    """Which rows are still to be sent."""
    marks = pl.Series([bytes(settled[start:stop])], dtype=pl.Binary)
    return marks.bin.reinterpret(dtype=pl.Array(pl.UInt8, len(marks[0]))).explode() != SENT


def batches(path: Path, plan: Plan, settled: bytearray | None = None) -> Iterator[Batch]:
    """
    The plan's batches in order, read piece by piece.

    Args:
        path: `plan.parquet`.
        plan: Its numbers.
        settled: One byte for each row, `journal.SENT` where it is not to be sent any more; a batch of
            which nothing is left is passed over. None: all are to be sent.
    """
    columns = ["row", "identifier", "source", "account_id", "batch"]
    for group in plan.groups:
        rest: pl.DataFrame | None = None
        for start in range(0, plan.rows, _ROW_GROUP):
            piece = pl.scan_parquet(path, glob=False).select(columns).slice(start, _ROW_GROUP).collect()
            wanted = piece["batch"].is_between(group.first, group.last)
            piece = piece.filter(wanted if settled is None else wanted & _unsent(settled, start, start + _ROW_GROUP))
            if rest is not None:
                piece = pl.concat([rest, piece])
            # The last batch of a piece may go on in the next one.
            final = start + _ROW_GROUP >= plan.rows
            whole = piece if final or piece.is_empty() else piece.filter(pl.col("batch") < piece["batch"][-1])
            rest = None if final else piece.slice(whole.height)
            yield from _batches_of(whole, group)


def _batches_of(rows: pl.DataFrame, group: Group) -> Iterator[Batch]:
    runs = rows["batch"].rle().struct.unnest()
    places, identifiers = rows["row"].to_list(), rows["identifier"].to_list()
    sources, accounts = _texts(rows["source"]), _texts(rows["account_id"])
    start = 0
    for length, number in runs.iter_rows():
        stop = start + length
        part = slice(start, stop)
        yield Batch(
            number, group.route, group.identifier_type, places[part], identifiers[part], sources[part], accounts[part]
        )
        start = stop


def _texts(cells: pl.Series) -> list[str]:
    """A column as a list, empty text for null; often it is one text over and over, and then that is one object."""
    if cells.len() and cells.eq_missing(cells[0]).all():
        return [cells[0] or ""] * cells.len()
    return cells.fill_null("").to_list()
