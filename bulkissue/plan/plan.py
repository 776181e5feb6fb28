"""
The plan: every row either settled before anything is sent, or in exactly one batch.

Pure but for the two Parquet files it reads and writes: the same input, job, history and versions give
the same plan, byte for byte. It must never depend on a clock, a run id or the order of threads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from bulkissue.exchange import Batch
from bulkissue.files import replacing_path
from bulkissue.input.intake import Intake
from bulkissue.job.model import Job
from bulkissue.outcomes import IDENTIFIER_TYPES, KNOWN_BY, REASONS, Outcome
from bulkissue.plan import same_number
from bulkissue.plan.remembered import held_by_history, settle_issued, still_wanted, ties
from bulkissue.plan.repeats import distinct, distinct_identifiers, settle_same_customer, with_customers
from bulkissue.plan.rows import NULL_WHERE_EMPTY, PLAN_SCHEMA, name_of, row_names, settle
from bulkissue.plan.same_customer import all_known
from bulkissue.service.routes import ROUTES, routes_of
from bulkissue.state.entries import SENT
from bulkissue.state.history import History, nobody

__all__ = ["Group", "Plan", "batches", "customers_of", "draw", "examples", "hold", "largest", "left", "load", "name_of"]

_ROW_GROUP = 1 << 17


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


#: A workbook keeps 15 digits of a number, and puts zeros for the rest.
_LONG_ID = 16
_ENOUGH_IDS = 3


@dataclass(frozen=True, slots=True)
class Fallback:
    """So many rows that are to be sent by one identifier type, and why not by the one that is preferred."""

    sent_by: str
    preferred: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a plan says, in numbers.

    Attributes:
        rows: Of the input.
        groups: What is to be sent, by identifier type.
        outcomes: Rows that are settled beforehand, by outcome, and
        reasons: by reason.
        fallbacks: Rows that go by another identifier than the preferred one.
        contradicted: Rows that the input ties together and that are several customers to the service.
        rounded: Rows to be sent by an id or external id of 16 and more digits, where all of these end in 0; else 0.
    """

    rows: int
    groups: tuple[Group, ...]
    outcomes: dict[str, int]
    reasons: dict[str, int]
    fallbacks: tuple[Fallback, ...] = ()
    contradicted: int = 0
    rounded: int = 0

    def fell_back(self) -> list[str]:
        """What stands out of the rows to be sent: sentences for a person, one for each pair of types that fell back."""
        told = []
        if self.contradicted:
            told.append(
                f"{self.contradicted:,} of {self.rows:,} rows stand beside another customer's identifiers in the "
                "input, and are customers of their own by the service: they are sent as the service says"
            )
        if self.rounded:
            told.append(
                f"all {self.rounded:,} ids of {_LONG_ID} and more digits end in 0: a spreadsheet may have "
                "rounded them, as it keeps 15 digits"
            )
        pairs = dict.fromkeys((one.sent_by, one.preferred) for one in self.fallbacks)
        for sent_by, preferred in pairs:
            mine = [one for one in self.fallbacks if (one.sent_by, one.preferred) == (sent_by, preferred)]
            why = ", ".join(f"{one.reason} {one.rows:,}" for one in mine)
            rows = sum(one.rows for one in mine)
            if sent_by == preferred:
                told.append(f"{rows:,} of {self.rows:,} rows go by a {sent_by} that looks wrong ({why})")
                continue
            told.append(
                f"{rows:,} of {self.rows:,} rows go by {sent_by}, as their {preferred} cannot be used ({why}); "
                "[identifiers] fall_back = false rejects them"
            )
        return told

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
    history: History,
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
        history: What is remembered of this target.
        limit: Send at most so many rows, the first ones; None for all.
        out: Where the plan goes.
        customers: Who is behind other identifiers than ids, `customers.SCHEMA`; None not to ask who is the same.

    Raises:
        InputRefused: A file has no column the job can use.
    """
    rows, contradicted = _planned(input_path, intake, job, history, limit=limit, customers=customers)
    with replacing_path(out) as path:
        # Polars takes long over empty text.
        written = rows.with_columns(pl.when(pl.col(name) != "").then(name) for name in NULL_WHERE_EMPTY)
        written.write_parquet(path, compression="lz4", statistics=False, row_group_size=_ROW_GROUP)
    return replace(summarise(rows, job), contradicted=contradicted, rounded=_rounded(rows))


def _rounded(rows: pl.DataFrame) -> int:
    """How many long ids are to be sent, where all of them end in 0 and chance does not explain it; else 0."""
    live = pl.col("batch").is_not_null() & pl.col("identifier_type").is_in(["id", "external_id"])
    long = rows.lazy().filter(live & pl.col("identifier").str.contains(rf"^[0-9]{{{_LONG_ID},}}$"))
    found = long.select(pl.len(), pl.col("identifier").str.ends_with("0").sum().alias("zero")).collect()
    count, zero = found.row(0)
    return int(count) if count >= _ENOUGH_IDS and count == zero else 0


def plan_rows(input_path: Path, intake: Intake, job: Job, history: History) -> pl.DataFrame:
    """As `draw`, without writing: columns of `PLAN_SCHEMA`, every input row once, in order."""
    return _planned(input_path, intake, job, history, limit=None, customers=None)[0]


def _planned(
    input_path: Path,
    intake: Intake,
    job: Job,
    history: History,
    *,
    limit: int | None,
    customers: pl.LazyFrame | None,
) -> tuple[pl.DataFrame, int]:
    found = distinct(input_path, intake, job, history, customers)
    if customers is not None:
        found = replace(found, rows=settle_same_customer(with_customers(found.rows, customers), input_path))
    rows = _leave_out(settle_issued(found, job, customers), limit)
    cut = _cut(rows, job)
    return cut.select(pl.col(name).cast(dtype) for name, dtype in PLAN_SCHEMA.items()), found.contradicted


def customers_of(input_path: Path, intake: Intake, job: Job) -> pl.DataFrame:
    """
    Every usable identifier of the input once, before history is asked.

    Returns:
        `row` (its first), `identifier_type` (String), `identifier`, `compare_key`, `source`, `account_id`; in order.
    """
    rows = distinct_identifiers(input_path, intake, job).filter(pl.col("outcome").is_null())
    kind = pl.col("identifier_type").cast(pl.String)
    return rows.select("row", kind, "identifier", "compare_key", "source", "account_id")


def _leave_out(rows: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    if limit is None:
        return rows
    live = rows["outcome"].is_null()
    beyond = live & (live.cast(pl.UInt32).cum_sum() > limit)
    return settle(rows, beyond, Outcome.NOT_ATTEMPTED, "guard.limit", pl.lit(REASONS["guard.limit"]))


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
    over = (
        rows.select("identifier_type", "passed_over", "batch")
        .filter(pl.col("batch").is_not_null() & pl.col("passed_over").is_not_null())
        .group_by(pl.col("identifier_type").cast(pl.String), "passed_over")
        .len()
        .sort("len", "identifier_type", "passed_over", descending=[True, False, False])
    )
    parted = ((kind, what.partition(":"), count) for kind, what, count in over.iter_rows())
    fallbacks = tuple(Fallback(kind, preferred, reason, count) for kind, (preferred, _, reason), count in parted)
    settled = rows.select("outcome", "reason").filter(pl.col("outcome").is_not_null())
    return Plan(
        rows=rows.height,
        groups=groups,
        outcomes=dict(settled.group_by("outcome").len().sort("outcome").iter_rows()),
        reasons=dict(settled.group_by("reason").len().sort("reason").iter_rows()),
        fallbacks=fallbacks,
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
    named = flat.join(row_names(input_path, flat["row"]), on="row", how="left", maintain_order="left")
    return named.group_by("outcome", "reason", maintain_order=True).agg(
        pl.col("rows").first(), pl.col("name").alias("names"), pl.col("message").first()
    )


def load(path: Path, job: Job) -> Plan:
    """The numbers of a plan written earlier."""
    columns = ["identifier_type", "outcome", "reason", "batch", "passed_over"]
    return summarise(pl.read_parquet(path, columns=columns), job)


def largest(plan: Plan, job: Job) -> int:
    """Rows in the plan's largest batch: what one lost answer can make unknown."""
    size = job.api.limits.batch_size
    return max((min(size, ROUTES[group.route].MAX_ROWS, group.rows) for group in plan.groups), default=0)


def left(path: Path, settled: bytearray) -> tuple[int, int]:
    """How many rows, in how many batches, `batches` would yield."""
    planned = pl.read_parquet(path, columns=["batch"]).to_series()
    unsent = planned.filter(_unsent(settled)).drop_nulls()
    return unsent.len(), unsent.n_unique()


def hold(
    path: Path, settled: bytearray, history: History, job: Job, customers: pl.LazyFrame | None = None
) -> pl.DataFrame:
    """
    Which rows still to be sent another run has issued, or may have: columns as `held_by_history`.

    Args:
        path: `plan.parquet`.
        settled: One byte for each row, 2 where it is not to be sent any more (`journal.SENT`).
        history: Of the target, without this run.
        job: How mobiles are read.
        customers: As for `draw`.
    """
    columns = ["row", "identifier_type", "identifier", "compare_key", "batch", *KNOWN_BY.values()]
    if customers is not None:
        columns += NULL_WHERE_EMPTY
    planned = pl.read_parquet(path, columns=columns).with_columns(pl.coalesce("compare_key", "identifier"))
    left_over = planned.filter(_unsent(settled) & pl.col("batch").is_not_null())
    if customers is not None:
        left_over = with_customers(left_over.with_columns(pl.col(NULL_WHERE_EMPTY).fill_null("")), customers)
    if history.is_empty() or left_over.is_empty():
        return held_by_history(still_wanted(left_over, history.digests), pl.DataFrame(), nobody())[0]
    usable = planned.lazy().filter(pl.col("compare_key").is_not_null())
    known = all_known(usable.with_columns(pl.col("identifier_type").cast(pl.String)), "compare_key").collect()
    history = same_number.alike(history, known["mobile"], job.identifiers.calling_code)
    wanted = still_wanted(left_over, history.digests)
    held, _ = held_by_history(wanted, history.digests.of_known(ties(known)), history, customers)
    rest = left_over.filter(~pl.col("row").is_in(held["row"].implode())).with_columns(outcome=pl.lit(None, pl.String))
    doubtful = rest.filter(same_number.ambiguous(history, rest, job.identifiers)).select(
        "row",
        pl.lit("dedupe.unknown").alias("reason"),
        pl.lit("an earlier run has this number with, or without, a country code; set country_code").alias("message"),
    )
    return pl.concat([held, doubtful]).sort("row")


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
