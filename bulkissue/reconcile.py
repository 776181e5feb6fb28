"""
Reconcile: settle unknown rows by reading the service back, and hold samples of settled ones against it.

Only reads the service. It must never settle a row before everything that may speak against it was looked at: what
other rows of any run hold of the same promotion or series, in whatever occasion, and who else may be the same customer.
"""

import asyncio
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

import polars as pl

from bulkissue import history, ledgers
from bulkissue.credentials import Credentials
from bulkissue.endpoints import offer_of
from bulkissue.errors import ExitCode
from bulkissue.evidence import (
    Clock,
    Context,
    Finding,
    Sent,
    Shown,
    clock_of,
    confirms_failure,
    confirms_success,
    instant_text,
    weigh,
)
from bulkissue.exchange import Reply, Request
from bulkissue.guards import Halt
from bulkissue.job import Job
from bulkissue.journal import Journal, Settlement
from bulkissue.outcomes import REASONS, Outcome
from bulkissue.readback import READERS
from bulkissue.readback.page import Asked, Page, Reading, unite
from bulkissue.reader import Reader, Stopped, Unread, reading
from bulkissue.target import Target, parse

#: Known successes that are looked up before "nothing is there" is believed.
MOST_CONTROLS = 3
_MOST_PAGES = 1000
_SETTLING = {"issued": (Outcome.SUCCEEDED, "reconcile.issued"), "not_issued": (Outcome.FAILED, "reconcile.not_issued")}
_PROVEN = "answer.proof"
_ASKED = (pl.col("identifier_type").cast(pl.String), "identifier", "source", "account_id")
_PICKED = (
    "_bi_place",
    "_bi_source_file",
    "_bi_row",
    "_bi_outcome",
    "_bi_reason",
    "_bi_identifier_type",
    "_bi_identifier",
    "_bi_compare_key",
    "_bi_reference",
    "_bi_sent_at",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was sent, as ledgers name it, with what is needed to read it back."""

    place: int
    file: str
    number: int
    outcome: str
    reason: str
    key: str = field(repr=False)
    asked: Asked
    sent: Sent

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.file} row {self.number}"


@dataclass(frozen=True, slots=True)
class Sampled:
    """Whether the service agrees with a row's outcome: `agrees`, `disagrees` or `unclear`, and why."""

    row: Row
    verdict: str
    why: str


@dataclass(slots=True)
class Account:
    """
    What came of reading back.

    Attributes:
        unknown: Rows that were unknown when it began.
        findings: What was found of them, as far as it came.
        sampled: Rows that were held against the service, as far as it came.
        requests: Requests sent.
        halt: Why it did not come to its end; None if it did.
    """

    unknown: int = 0
    findings: list[tuple[Row, Finding]] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    requests: int = 0
    halt: Halt | None = None

    def found(self, kind: str) -> int:
        """How many rows it found to be `issued` or `not_issued`."""
        return sum(finding.kind == kind for _, finding in self.findings)

    @property
    def left(self) -> int:
        """Rows that stay unknown."""
        return self.unknown - self.found("issued") - self.found("not_issued")

    @property
    def doubted(self) -> list[Sampled]:
        """Sampled rows with which the service does not, or not certainly, agree."""
        return [one for one in self.sampled if one.verdict != "agrees"]


@dataclass(frozen=True, slots=True)
class Case:
    """
    A run that is to be read back, its target's lock held.

    Attributes:
        run: The run.
        journal: Its journal.
        ending: How it stands.
        job: Its job.
        state_dir: Where all runs of its target are remembered.
    """

    run: ledgers.Run
    journal: Journal
    ending: ledgers.Ending
    job: Job
    state_dir: Path


def read_back(
    case: Case,
    credentials: Credentials,
    *,
    sample: int,
    settle: Callable[[Settlement], None],
    say: Callable[[str], None],
) -> Account:
    """
    Read back the run's unknown rows, then a sample of its settled ones. A signal ends it early; what is settled stays.

    Args:
        case: The run.
        credentials: For the service.
        sample: How many succeeded and how many failed rows to hold against the service.
        settle: Takes each settlement as it is found.
        say: Told what is read back.
    """
    account = Account()
    unknown, controls = _survey(case)
    account.unknown = len(unknown)
    if unknown:
        say(f"{len(unknown)} unknown rows are read back")

    async def work() -> None:
        async with reading(case.job.api, credentials) as reader:
            back = _ReadingBack(case, reader, controls, account, settle)
            try:
                await back.settle_unknown(unknown)
                if sample:
                    await back.hold_sample(_sample(case, sample))
            finally:
                account.requests = reader.requests

    if unknown or sample:
        account.halt = asyncio.run(_until_stopped(work()))
    return account


async def _until_stopped(work: Coroutine[None, None, None]) -> Halt | None:
    task = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, RuntimeError):  # not the main thread: its owner takes the signals
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except Stopped as stopped:
        return stopped.halt
    except asyncio.CancelledError:
        return Halt.by("guard.signal", exit_code=ExitCode.INTERRUPTED)
    return None


class _ReadingBack:
    """One session of reading back."""

    def __init__(
        self,
        case: Case,
        reader: Reader,
        controls: dict[tuple[str, str], list[Row]],
        account: Account,
        settle: Callable[[Settlement], None],
    ) -> None:
        self._case = case
        self._reader = reader
        self._offer = offer_of(case.job, case.run.run_id)
        self._endpoint = READERS[self._offer.effect]
        self._controls = controls
        self._account = account
        self._settle = settle
        self._failed_controls: dict[tuple[str, str], str] = {}
        self._clock = Clock()
        self._unknown: list[tuple[Row, Reading]] = []
        self._taken: set[str] = set()
        self._identities: dict[tuple[str, str, str], str | None] = {}

    async def settle_unknown(self, rows: Sequence[Row]) -> None:
        """
        Read unknown rows, and settle those whose reading is unambiguous.

        A row of which nothing is shown is settled at once. One of which something is shown waits for the readings
        of all others, and for what is remembered by then.
        """
        await self._check(row.asked.kind for row in rows)
        open_rows: list[tuple[Row, Reading]] = []

        async def read(row: Row) -> None:
            shown = await self._read(row.asked)
            self._unknown.append((row, shown))
            finding = weigh(row.sent, shown, self._context(row))
            if finding.kind in {"not_issued", "too_early"} or not shown.found:
                self._note(row, shown, finding)
            else:
                open_rows.append((row, shown))

        await _each(rows, read, self._case.job.api.limits.lanes)
        if not open_rows:
            return
        with self._remembered(open_rows) as memory:
            claimed = memory.claimed({one.reference for _, shown in open_rows for one in shown.found})
            for row, shown in sorted(open_rows, key=lambda pair: pair[0].place):
                finding = weigh(row.sent, shown, self._context(row, claimed))
                if finding.kind == "issued" and finding.reference.casefold() != row.sent.reference.casefold():
                    rival = await self._rival(row, shown, finding.reference, memory)
                    finding = weigh(row.sent, shown, self._context(row, claimed, rival))
                self._note(row, shown, finding)

    async def hold_sample(self, rows: Sequence[Row]) -> None:
        """Hold succeeded and failed rows against the service."""
        await self._check(row.asked.kind for row in rows if row.outcome == Outcome.FAILED)
        shown: list[tuple[Row, Reading]] = []

        async def read(row: Row) -> None:
            shown.append((row, await self._read(row.asked)))

        await _each(rows, read, self._case.job.api.limits.lanes)
        with self._remembered(shown) as memory:
            claimed = memory.claimed({one.reference for _, reading in shown for one in reading.found})
            for row, its in sorted(shown, key=lambda pair: pair[0].place):
                if row.outcome == Outcome.SUCCEEDED:
                    settings = self._case.job.reconcile
                    verdict, why = confirms_success(row.sent.reference, its, row.sent.last, settings)
                else:
                    verdict, why = confirms_failure(row.sent, its, self._context(row, claimed))
                    if verdict == "disagrees":
                        rival = await self._rival(row, its, "", memory)
                        verdict, why = confirms_failure(row.sent, its, self._context(row, claimed, rival))
                self._account.sampled.append(Sampled(row, verdict, why))

    def _context(self, row: Row, claimed: Iterable[str] = (), rival: str = "") -> Context:
        return Context(
            control=self._failed_controls[row.asked.kind],
            clock=self._clock,
            claimed={*claimed, *self._taken},
            rival=rival,
            gives_again=self._offer.effect == "coupon",
            settings=self._case.job.reconcile,
        )

    def _note(self, row: Row, shown: Reading, finding: Finding) -> None:
        self._account.findings.append((row, finding))
        if finding.reference:
            self._taken.add(finding.reference.casefold())
        outcome, reason = _SETTLING.get(finding.kind, (Outcome.UNKNOWN, row.reason))
        settles = finding.kind in _SETTLING
        seen = f"GET {self._endpoint.PATH} showed {len(shown.found)} of this target at {instant_text(shown.at)}"
        self._settle(
            Settlement(
                row=row.place,
                outcome=outcome,
                reason=reason,
                message=REASONS[reason] if settles else f"not settled by reading back: {finding.why}",
                reference=finding.reference,
                settled_by="reconcile",
                evidence=f"{seen}; {finding.why}" if settles else seen,
                at=_now(),
            )
        )

    async def _read(self, asked: Asked) -> Reading:
        """All that the service shows of a customer."""
        begun = _now()
        listings: list[list[Page]] = []
        for first in self._endpoint.requests(asked, self._offer):
            pages = [await self._page(first, asked)]
            while (further := pages[-1].next) is not None and len(pages) < _MOST_PAGES:
                pages.append(await self._page(further, asked))
            listings.append(pages)
            if pages[-1].codes or not pages[-1].readable:
                break  # the others would say the same
        return unite(begun, listings)

    async def _page(self, request: Request, asked: Asked) -> Page:
        def read(reply: Reply) -> Page:
            return self._endpoint.read(reply, request, asked, self._offer)

        page = await self._reader.ask(request, read)
        if isinstance(page, Unread):
            return Page(readable=False, doubt=f"it could not be read ({page.reason})")
        return page

    async def _check(self, kinds: Iterable[tuple[str, str]]) -> None:
        """See, for each kind of question, whether it shows what is known to be there; and set the clock by that."""
        seen: list[Shown] = []
        for kind in dict.fromkeys(kinds):
            tried = []
            for asked, reference, sent, answered in self._known(kind):
                tried.append(reference)
                shown = (await self._read(asked)).found
                made = [one for one in shown if one.reference.casefold() == reference.casefold()]
                if made:
                    seen.append(Shown(sent, answered, made[0].at))
                    self._failed_controls[kind] = ""
                    break
            else:
                known = f"none of {len(tried)} known successes is" if tried else "no success is known to be"
                self._failed_controls[kind] = f"{known} shown by the same question, so that may mean nothing"
        limits = self._case.job.api.limits
        longest = 2 * limits.connect_timeout_seconds + limits.read_timeout_seconds
        self._clock = clock_of(seen, self._case.job.reconcile, round(longest * 1000))

    def _known(self, kind: tuple[str, str]) -> Iterator[tuple[Asked, str, int | None, int]]:
        """Known successes of a kind: how to ask, the reference, when sent and answered. This run's latest first."""
        own = self._controls.get(kind, [])
        for row in own:
            yield row.asked, row.sent.reference, row.sent.first, row.sent.last
        identifier_type, source = kind
        issued = _every_occasion(self._case, ()).issued(without=self._case.run.run_id)
        certain = (pl.col("outcome") == Outcome.SUCCEEDED.value) & (pl.col("identifier_type") == identifier_type)
        dated = pl.col("reference").is_not_null() & pl.col("answered_at").is_not_null()
        latest = issued.filter(certain & dated).top_k(MOST_CONTROLS - len(own), by=["answered_at", "compare_key"])
        for key, reference, answered in latest.select("compare_key", "reference", "answered_at").collect().iter_rows():
            yield Asked(identifier_type, key, source), reference, None, _ms(answered)

    def _remembered(self, shown: Iterable[tuple[Row, Reading]]) -> "_Memory":
        return _Memory(self._case, {names for _, reading in shown for names in reading.names})

    async def _rival(self, row: Row, shown: Reading, reference: str, memory: "_Memory") -> str:
        """Who else may own the issue: another row of the same customer of which it is not known what it was issued."""
        for other, its in self._unknown:
            if other.place == row.place:
                continue
            if its.customer_ids & shown.customer_ids or any(one.reference == reference for one in its.found):
                return f"{other.name}, which is the same customer"
            if its.doubt and not its.customer_ids and not its.nobody:
                return f"{other.name}, which may be the same customer and could not be read"
        if memory.blind:
            return f"a row of run {memory.blind}, whose journal is gone"
        for open_row in memory.open_rows:
            if (open_row.identifier_type, open_row.key) == (row.asked.identifier_type, row.key):
                return f"{open_row.name}, which is the same customer"
        for open_row in memory.open_rows:
            known = open_row.customer_id or await self._identity(open_row, memory)
            if known is None:
                return f"{open_row.name}, which may be the same customer and could not be read"
            if known in shown.customer_ids:
                return f"{open_row.name}, which is the same customer"
        return ""

    async def _identity(self, open_row: "_OpenRow", memory: "_Memory") -> str | None:
        """The customer id of another run's row; empty where there is no such customer, None where it cannot be said."""
        key = (open_row.run, open_row.identifier_type, open_row.key)
        if key not in self._identities:
            asked = memory.asked(open_row)
            page = None
            if asked is not None:
                page = await self._page(self._endpoint.requests(asked, self._offer)[0], asked)
            told = page is not None and (page.customer_id or page.nobody or not page.doubt)
            self._identities[key] = page.customer_id if page is not None and told else None
        return self._identities[key]


@dataclass(frozen=True, slots=True)
class _OpenRow:
    """A row of any run that may own an issue nobody can name: unknown, or issued by a person's word."""

    run: str
    file: str
    number: int
    identifier_type: str
    key: str = field(repr=False)
    customer_id: str = field(repr=False)

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.file} row {self.number} of run {self.run}"


class _Memory:
    """
    What is remembered of the promotion or series at this moment, in all occasions, also of runs that are sending.

    A context manager: what it keeps for its while goes with it.

    Args:
        case: The run.
        names: Other names of the promotion, as readings told: id, identifier.
    """

    def __init__(self, case: Case, names: Iterable[tuple[str, str]]) -> None:
        self.blind = ""
        self._case = case
        self._names = names
        self._runs: dict[str, history.Registered] = {}
        self._issued = pl.LazyFrame(schema=history.HISTORY_SCHEMA)
        self._open_rows: list[_OpenRow] | None = None
        self._asked: dict[str, dict[tuple[str, int], Asked]] = {}

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix=".reconcile-", dir=self._case.run.folder)
        everything = _every_occasion(self._case, self._names)
        parts = []
        # The register first: a run that settles meanwhile is then read twice, and none is overlooked.
        for number, run in enumerate(everything.runs()):
            self._runs[run.run_id] = run
            if run.state != "open" or not run.journal:
                continue
            out = Path(self._scratch.name) / str(number)
            out.mkdir()
            if run.run_id == self._case.run.run_id:
                parts += ledgers.history_parts(self._case.run, self._case.journal, self._case.ending, out)
            elif (Path(run.run_dir) / "journal.db").exists():
                parts += ledgers.journalled_history(Path(run.run_dir), out)
            else:
                self.blind = run.run_id
        remembered = everything.issued()
        self._issued = pl.concat([remembered, pl.scan_parquet(parts)]) if parts else remembered
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def claimed(self, references: set[str]) -> set[str]:
        """Those of the references that a row holds, in lower case."""
        if not references:
            return set()
        wanted = pl.col("reference").str.to_lowercase().is_in([one.lower() for one in references])
        held = self._issued.filter((pl.col("outcome") == Outcome.SUCCEEDED.value) & wanted)
        return {one.casefold() for one in held.select("reference").collect()["reference"]}

    @property
    def open_rows(self) -> list[_OpenRow]:
        """Each customer once, by identifier; without this run's unknown rows, which are being read themselves."""
        if self._open_rows is None:
            unknown = pl.col("outcome") == Outcome.UNKNOWN.value
            ours = unknown & (pl.col("run") == self._case.run.run_id)
            nameless = (pl.col("outcome") == Outcome.SUCCEEDED.value) & pl.col("reference").is_null()
            columns = ("run", "source_file", "source_row", "identifier_type", "compare_key", "customer_id")
            chosen = self._issued.filter((unknown | nameless) & ~ours).select(columns).sort(columns[:3])
            once = chosen.unique(["identifier_type", "compare_key"], keep="first", maintain_order=True).collect()
            self._open_rows = [
                _OpenRow(run, file, number, kind, key, customer or "")
                for run, file, number, kind, key, customer in once.iter_rows()
            ]
        return self._open_rows

    def asked(self, row: _OpenRow) -> Asked | None:
        """How to ask for the customer of a row; None where its run's folder is gone."""
        if row.run not in self._asked:
            wanted = [(one.file, one.number) for one in self.open_rows if one.run == row.run]
            self._asked[row.run] = _asked(Path(self._runs[row.run].run_dir), wanted) if row.run in self._runs else {}
        return self._asked[row.run].get((row.file, row.number))


def _asked(folder: Path, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], Asked]:
    """How rows of a run were sent, by file and number."""
    if not all((folder / name).exists() for name in ("input.parquet", "plan.parquet")):
        return {}
    rows = pl.LazyFrame(wanted, schema={"_bi_source_file": pl.String, "_bi_row": pl.UInt64}, orient="row")
    places = (
        pl.scan_parquet(folder / "input.parquet")
        .select("_bi_source_file", pl.col("_bi_row").cast(pl.UInt64))
        .with_row_index("row")
        .join(rows, on=["_bi_source_file", "_bi_row"], how="inner")
    )
    plan = pl.scan_parquet(folder / "plan.parquet").select("row", *_ASKED)
    found = places.join(plan, on="row", how="inner").select("_bi_source_file", "_bi_row", *_ASKED).collect()
    return {(file, number): Asked(*asked) for file, number, *asked in found.iter_rows()}


def _every_occasion(case: Case, names: Iterable[tuple[str, str]]) -> history.TargetState:
    target = parse(case.run.target)
    also = [Target(target.environment, target.effect, promotion, identifier) for promotion, identifier in names]
    return history.every_occasion(case.state_dir, [target, *also])


def _survey(case: Case) -> tuple[list[Row], dict[tuple[str, str], list[Row]]]:
    """The run's unknown rows, and its latest proven successes for each kind of question."""
    unknown, latest = [], []
    plan = pl.scan_parquet(case.run.folder / "plan.parquet").select("row", "source")
    for frame in ledgers.derive(case.run, case.journal, case.ending):
        picked = frame.select(_PICKED)
        unknown.append(picked.filter(pl.col("_bi_outcome") == Outcome.UNKNOWN.value))
        proven = picked.filter((pl.col("_bi_outcome") == Outcome.SUCCEEDED.value) & (pl.col("_bi_reason") == _PROVEN))
        sources = plan.slice(frame["_bi_place"][0], frame.height).collect()
        latest.append(proven.join(sources, left_on="_bi_place", right_on="row", how="left"))
        latest = [_latest(pl.concat(latest))]
    controls = defaultdict(list)
    for row in _rows(case, latest[0].drop("source")) if latest else []:
        controls[row.asked.kind].append(row)
    return (_rows(case, pl.concat(unknown)) if unknown else []), dict(controls)


def _latest(proven: pl.DataFrame) -> pl.DataFrame:
    ordered = proven.sort("_bi_sent_at", "_bi_place", descending=True)
    return (
        ordered.group_by("_bi_identifier_type", "source", maintain_order=True)
        .head(MOST_CONTROLS)
        .select(proven.columns)
    )


def _sample(case: Case, most: int) -> list[Row]:
    """So many succeeded and so many failed rows, spread evenly over the run: the same each time."""
    sent = pl.col("_bi_sent_at").is_not_null()
    which = {
        Outcome.SUCCEEDED: sent & pl.col("_bi_reference").is_not_null(),
        Outcome.FAILED: sent,
    }
    places: dict[Outcome, list[pl.Series]] = {outcome: [] for outcome in which}
    for frame in ledgers.derive(case.run, case.journal, case.ending):
        for outcome, where in which.items():
            places[outcome].append(frame.filter((pl.col("_bi_outcome") == outcome.value) & where)["_bi_place"])
    chosen = set()
    for series in places.values():
        candidates = pl.concat(series) if series else pl.Series(dtype=pl.UInt32)
        count = min(most, candidates.len())
        chosen |= {candidates[number * candidates.len() // count] for number in range(count)}
    picked = [
        frame.select(_PICKED).filter(pl.col("_bi_place").is_in(list(chosen)))
        for frame in ledgers.derive(case.run, case.journal, case.ending)
    ]
    return _rows(case, pl.concat(picked)) if picked else []


def _rows(case: Case, frame: pl.DataFrame) -> list[Row]:
    """Rows with what is needed to read them back; `frame` has the columns of `_PICKED`."""
    wanted = set(frame["_bi_place"].to_list())
    if not wanted:
        return []
    times: dict[int, tuple[int, int]] = {}
    for attempt in case.journal.attempts():
        for place in wanted.intersection(attempt.rows):
            first, last = times.get(place, (attempt.sent_at, attempt.sent_at))
            times[place] = min(first, attempt.sent_at), max(last, attempt.sent_at, attempt.answered_at or 0)
    plan = pl.scan_parquet(case.run.folder / "plan.parquet").filter(pl.col("row").is_in(list(wanted)))
    how = plan.select("row", "source", "account_id").collect()
    rows = []
    for line in frame.join(how, left_on="_bi_place", right_on="row", how="left").iter_rows(named=True):
        place, identifier = line["_bi_place"], line["_bi_identifier"]
        rows.append(
            Row(
                place,
                line["_bi_source_file"],
                line["_bi_row"],
                line["_bi_outcome"],
                line["_bi_reason"],
                line["_bi_compare_key"] or identifier,
                Asked(line["_bi_identifier_type"], identifier, line["source"] or "", line["account_id"] or ""),
                Sent(*times[place], line["_bi_reference"] or ""),
            )
        )
    return rows


async def _each(rows: Sequence[Row], work: Callable[[Row], Awaitable[None]], lanes: int) -> None:
    """Do the work for every row, so many at once. The first trouble ends it."""
    queue = iter(rows)

    async def lane() -> None:
        for row in queue:
            await work(row)

    tasks = [asyncio.create_task(lane()) for _ in range(min(lanes, len(rows)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _now() -> int:
    return time.time_ns() // 1_000_000
