"""
Reconcile: settle unknown rows by reading the service back, and hold samples of settled ones against it.

Only reads the service. It must never settle a row before everything that may speak against it was looked at: what
other rows of any run hold of the same promotion or series, in whatever occasion, and who else may be the same customer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import polars as pl

from bulkissue import signals
from bulkissue.errors import ExitCode
from bulkissue.exchange import Reply, Request
from bulkissue.job.credentials import Credentials
from bulkissue.job.target import parse
from bulkissue.outcomes import REASONS, Outcome
from bulkissue.send.guards import Halt
from bulkissue.send.reader import Reader, Stopped, Unread, reading
from bulkissue.service.page import Asked, Page, Reading, unite
from bulkissue.service.readers import READERS
from bulkissue.service.routes import promotion_or_series
from bulkissue.settle import claims
from bulkissue.settle.cases import MOST_CONTROLS, Case, Row, sample_of, survey
from bulkissue.settle.claims import Claims, OpenRow, how_asked
from bulkissue.settle.evidence import (
    Clock,
    Context,
    Finding,
    Shown,
    clock_of,
    confirms_failure,
    confirms_success,
    instant_text,
    weigh,
)
from bulkissue.state.entries import Settlement
from bulkissue.state.store import store_at

T = TypeVar("T")

_NOBODY = 0
_MOST_PAGES = 1000
_SETTLING = {"issued": (Outcome.SUCCEEDED, "reconcile.issued"), "not_issued": (Outcome.FAILED, "reconcile.not_issued")}


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


def read_back(
    case: Case,
    credentials: Credentials,
    *,
    sample: int,
    settle: Callable[[Settlement], None],
    say: Callable[[str], None],
    tell: Callable[[int, int], None] = lambda _asked, _of: None,
) -> Account:
    """
    Read back the run's unknown rows, then a sample of its settled ones. A signal ends it early; what is settled stays.

    Args:
        case: The run.
        credentials: For the service.
        sample: How many succeeded and how many failed rows to hold against the service.
        settle: Takes each settlement as it is found.
        say: Told what is read back.
        tell: Told how many rows were read, of how many.
    """
    account = Account()
    unknown, controls = survey(case)
    account.unknown = len(unknown)
    if unknown:
        say(f"{len(unknown)} unknown rows are read back")

    async def work() -> None:
        allowance = store_at(case.state_dir).allowance(case.job.api.host, credentials.name)
        async with reading(case.job.api, credentials, allowance) as reader:
            back = _ReadingBack(case, reader, controls, account, settle=settle, tell=tell)
            try:
                await back.settle_unknown(unknown)
                if sample:
                    await back.hold_sample(sample_of(case, sample))
            finally:
                account.requests = reader.requests

    if unknown or sample:
        with signals.as_before():
            account.halt = asyncio.run(_until_stopped(work()))
    return account


async def _until_stopped(work: Coroutine[None, None, None]) -> Halt | None:
    task = asyncio.create_task(work)
    signals.call(task.cancel)
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
        *,
        settle: Callable[[Settlement], None],
        tell: Callable[[int, int], None],
    ) -> None:
        self._case = case
        self._tell = tell
        self._reader = reader
        self._to_issue = promotion_or_series(case.job, case.run.run_id)
        self._endpoint = READERS[self._to_issue.effect]
        self._controls = controls
        self._account = account
        self._settle = settle
        self._unproven: dict[tuple[str, str], str] = {}
        self._clock = Clock()
        self._unknown: list[tuple[Row, Reading]] = []
        self._taken: set[str] = set()
        self._identities: dict[OpenRow, int | None] = {}
        self._evidence = f"read from {instant_text(_now())} by GET {self._endpoint.LISTING_PATH}"

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
            self._tell(len(self._unknown), len(rows))
            finding = weigh(row.sent, shown, self._context(row))
            if finding.kind in {"not_issued", "too_early"} or not shown.found:
                self._note(row, finding)
            else:
                open_rows.append((row, shown))

        await _each(rows, read, self._case.job.api.limits.concurrency)
        if not open_rows:
            return
        with self._remembered(open_rows) as memory:
            claimed = memory.claimed({one.reference for _, shown in open_rows for one in shown.found})
            for row, shown in sorted(open_rows, key=lambda pair: pair[0].place):
                finding = weigh(row.sent, shown, self._context(row, claimed))
                if finding.kind == "issued" and finding.reference.casefold() != row.sent.reference.casefold():
                    rival = await self._rival(row, shown, memory)
                    finding = weigh(row.sent, shown, self._context(row, claimed, rival))
                self._note(row, finding)

    async def hold_sample(self, rows: Sequence[Row]) -> None:
        """Hold succeeded and failed rows against the service."""
        await self._check(row.asked.kind for row in rows if row.outcome == Outcome.FAILED)
        shown: list[tuple[Row, Reading]] = []

        async def read(row: Row) -> None:
            shown.append((row, await self._read(row.asked)))
            self._tell(len(shown), len(rows))

        await _each(rows, read, self._case.job.api.limits.concurrency)
        with self._remembered(shown) as memory:
            claimed = memory.claimed({one.reference for _, reading in shown for one in reading.found})
            for row, its in sorted(shown, key=lambda pair: pair[0].place):
                if row.outcome == Outcome.SUCCEEDED:
                    settings = self._case.job.reconcile
                    verdict, why = confirms_success(row.sent.reference, its, row.sent.last, settings)
                else:
                    verdict, why = confirms_failure(row.sent, its, self._context(row, claimed))
                    if verdict == "disagrees":
                        rival = await self._rival(row, its, memory)
                        verdict, why = confirms_failure(row.sent, its, self._context(row, claimed, rival))
                self._account.sampled.append(Sampled(row, verdict, why))

    def _context(self, row: Row, claimed: Iterable[str] = (), rival: str = "") -> Context:
        return Context(
            control=self._unproven[row.asked.kind],
            clock=self._clock,
            claimed={*claimed, *self._taken},
            rival=rival,
            gives_again=self._to_issue.effect == "coupon",
            settings=self._case.job.reconcile,
        )

    def _note(self, row: Row, finding: Finding) -> None:
        self._account.findings.append((row, finding))
        if finding.reference:
            self._taken.add(finding.reference.casefold())
        outcome, reason = _SETTLING.get(finding.kind, (Outcome.UNKNOWN, row.reason))
        said = REASONS[reason] if finding.kind in _SETTLING else "not settled by reading back"
        self._settle(
            Settlement(
                row=row.place,
                outcome=outcome,
                reason=reason,
                message=f"{said}: {finding.why}",
                reference=finding.reference,
                settled_by="reconcile",
                evidence=self._evidence,
                at=_now(),
            )
        )

    async def _read(self, asked: Asked) -> Reading:
        """All that the service shows of a customer."""
        begun = _now()
        listings: list[list[Page]] = []
        for first in self._endpoint.listings(asked, self._to_issue):
            pages = [await self._page(first, asked)]
            while (further := pages[-1].next) is not None and len(pages) < _MOST_PAGES:
                pages.append(await self._page(further, asked))
            listings.append(pages)
            if pages[-1].codes or not pages[-1].readable:
                break  # the others would say the same
        return unite(begun, listings)

    async def _page(self, request: Request, asked: Asked) -> Page:
        def read(reply: Reply) -> Page:
            return self._endpoint.read_page(reply, request, asked, self._to_issue)

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
                    self._unproven[kind] = ""
                    break
            else:
                known = f"none of {len(tried)} known successes is" if tried else "no success is known to be"
                self._unproven[kind] = f"{known} shown by the same question, so that may mean nothing"
        limits = self._case.job.api.limits
        longest = 2 * limits.connect_timeout_seconds + limits.read_timeout_seconds
        self._clock = clock_of(seen, self._case.job.reconcile, round(longest * 1000))

    def _known(self, kind: tuple[str, str]) -> Iterator[tuple[Asked, str, int | None, int]]:
        """Known successes of a kind: how to ask, the reference, when sent and answered. This run's latest first."""
        own = self._controls.get(kind, [])
        for row in own:
            yield row.asked, row.sent.reference, row.sent.first, row.sent.last
        identifier_type, source = kind
        everything = store_at(self._case.state_dir).every_occasion([parse(self._case.run.target)])
        certain = (pl.col("outcome") == Outcome.SUCCEEDED.value) & (pl.col("identifier_type") == identifier_type)
        dated = pl.col("reference").is_not_null() & pl.col("answered_at").is_not_null()
        issued = everything.issued(without=self._case.run.run_id)
        folders = {run.run_id: Path(run.run_dir) for run in everything.runs()}
        latest = issued.lines.filter(certain & dated).top_k(MOST_CONTROLS - len(own), by=["answered_at", "key"])
        columns = ("run", "source_file", "source_row", "reference", "answered_at")
        for run, file, number, reference, answered in latest.select(columns).collect().iter_rows():
            asked = how_asked(folders[run], [(file, number)]).get((file, number)) if run in folders else None
            if asked is not None:
                yield Asked(identifier_type, asked.identifier, source), reference, None, _ms(answered)

    def _remembered(self, shown: Iterable[tuple[Row, Reading]]) -> AbstractContextManager[Claims]:
        case, names = self._case, {names for _, reading in shown for names in reading.names}
        return claims.remembered(case.run, case.journal, case.ending, case.state_dir, names)

    async def _rival(self, row: Row, shown: Reading, memory: Claims) -> str:
        """Who else may own what is shown: another row of the same customer of which it is not known what it got."""
        references = {one.reference for one in shown.found}
        for other, its in self._unknown:
            if other.place == row.place:
                continue
            if its.customer_ids & shown.customer_ids or any(one.reference in references for one in its.found):
                return f"{other.name}, which is the same customer"
            if its.doubt and not its.customer_ids and not its.nobody:
                return f"{other.name}, which may be the same customer and could not be read"
        if memory.blind:
            return f"a row of run {memory.blind}, whose journal is gone"
        key = memory.digest(row.asked.identifier_type, row.key)
        same = next((one for one in memory.open_rows if one.key == key), None)
        if same is None:
            await self._identify(row, memory)
            ids = {*(memory.digest("id", one) for one in shown.customer_ids), None}
            same = next((one for one in memory.open_rows if self._identities[one] in ids), None)
        if same is None:
            return ""
        certain = same.key == key or self._identities[same] is not None
        return f"{same.name}, which {'is' if certain else 'may be'} the same customer"

    async def _identify(self, row: Row, memory: Claims) -> None:
        """
        Learn the customer ids of all open rows, as digests: `_NOBODY` where there is no such customer, None where it
        cannot be said, as where a run's folder is gone and nobody said who its customers were.

        Where only a person's word tells it, the source of `row` is as good a guess as any.
        """

        async def identify(one: OpenRow) -> None:
            asked = memory.asked(one, row.asked.source)
            if asked is None:
                self._identities[one] = None
                return
            page = await self._page(self._endpoint.listings(asked, self._to_issue)[0], asked)
            told = page.customer_id or not page.doubt or page.nobody
            found = memory.digest("id", page.customer_id) if page.customer_id else _NOBODY
            self._identities[one] = found if told else None

        self._identities |= {one: one.customer for one in memory.open_rows if one.customer is not None}
        strangers = [one for one in memory.open_rows if one not in self._identities]
        await _each(strangers, identify, self._case.job.api.limits.concurrency)


async def _each(rows: Sequence[T], work: Callable[[T], Awaitable[None]], lanes: int) -> None:
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
