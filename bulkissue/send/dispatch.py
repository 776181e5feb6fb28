"""
Dispatch: walk the batches, and for each attempt journal the intent, send, journal the answer.

The only stateful part. An attempt's bytes leave after its intent is on the disk; all that can fail
before the wire (token, pace slot, building the request) comes before the intent. It must never send a
row again unless the verdict on its last attempt is void.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from msgspec.structs import replace

from bulkissue import logs
from bulkissue.errors import ExitCode, StateRefused
from bulkissue.exchange import Batch, MaybeSent, NotSent, PaceState, Quota, Reply, Sending
from bulkissue.failpoint import reached
from bulkissue.http.auth import Auth, CredentialsRefused, TokenUnavailable, at_its_turn
from bulkissue.http.client import Lane
from bulkissue.job.model import LimitsSection
from bulkissue.outcomes import REASONS, Outcome, Results
from bulkissue.send.guards import Counters, Guards, Halt
from bulkissue.send.pace import Pace
from bulkissue.send.retry import attempts
from bulkissue.send.verdict import Verdict, judge
from bulkissue.service.answer import PromotionOrSeries
from bulkissue.service.routes import ROUTES
from bulkissue.state.allowance import Allowance
from bulkissue.state.entries import PACE_CHANGED, Answer, Event, Intent
from bulkissue.state.journal_writer import JournalWriter
from bulkissue.state.protocols import RunJournal
from bulkissue.state.reserve import Reserve

#: In an outage one lane tries again after each of these, at most `max_attempts` times; then the run stops.
PROBE_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
#: How often the pace is looked at, and the share of the allowance by which it must have changed to be noted.
PACE_SECONDS, _NOTICED = 1.0, 0.05


class _Halted(Exception):
    """The run is stopping: whoever sleeps or waits gives up."""


class Dispatch:
    """
    One session of sending.

    Args:
        batches: What is to be sent, in order.
        journal: Open for writing.
        lanes: One request may be in flight on each.
        make_auth: Where headers come from; a token request takes a slot of the pace like any other.
        to_issue: What is issued.
        guards: When to stop.
        limits: Pace, attempts and sizes.
        allowance: What is known of how fast may be sent; None: by this process alone.
        reserve: Room that is given back when the disk is full; None for none.
        watch: Told whenever the counters have changed.
        probe_seconds: Waits between the probes of an outage.
    """

    def __init__(
        self,
        *,
        batches: Iterator[Batch],
        journal: RunJournal,
        lanes: Sequence[Lane],
        make_auth: Callable[[Pace], Auth],
        to_issue: PromotionOrSeries,
        guards: Guards,
        limits: LimitsSection,
        allowance: Allowance | None = None,
        reserve: Reserve | None = None,
        watch: Callable[[Counters], None] = lambda _: None,
        probe_seconds: Sequence[float] = PROBE_SECONDS,
    ) -> None:
        self.halt: Halt | None = None
        self._interrupted = False
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._batches = batches
        self._peeked: Batch | None = None
        self._identifier_type = ""
        self._in_flight = 0
        self._writer = JournalWriter(journal, reserve)
        self._next_attempt = journal.next_attempt
        self._lanes = lanes
        self._pace = Pace(limits.pace, clock=time.monotonic, sleep=self._sleep, wall=time.time, allowance=allowance)
        self._pace_noted: PaceState | None = None
        self._pace_due = 0.0
        self._auth = make_auth(self._pace)
        self._to_issue = to_issue
        self._guards = guards
        self._limits = limits
        self._largest = limits.batch_size
        self._watch = watch
        self._probe_seconds = probe_seconds[: limits.max_attempts]
        self._probe: Lane | None = None
        self._probes = 0
        self._random = random.Random()
        self._tasks: list[asyncio.Task[None]] = []
        self._log = logs.get()
        self._answers = logs.Sparing("batch.answered")

    async def run(self) -> Halt | None:
        """
        Send until nothing is left or something says stop; what is in flight then is awaited.

        Raises:
            StateRefused: The journal could not be written. Nothing was sent after that.
        """
        self._tasks = [asyncio.create_task(self._work(lane)) for lane in self._lanes]
        try:
            for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
        finally:
            self._answers.flush()
            try:
                await self._writer.close()
            finally:
                for lane in self._lanes:
                    await lane.close()
        return self.halt

    def interrupt(self) -> None:
        """Stop for a signal: the first time what is in flight is awaited, the second time it is given up."""
        if self._interrupted:
            for task in self._tasks:
                task.cancel()
        self._interrupted = True
        self._stop(Halt.by("guard.signal", exit_code=ExitCode.INTERRUPTED))

    def _stop(self, halt: Halt | None) -> None:
        if halt is None or self.halt is not None:
            return
        self.halt = halt
        self._stopping.set()
        self._log.warning("run.stopping", reason=halt.reason, message=halt.message)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the end of the run."""
        if not self._stopping.is_set():
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except TimeoutError:
                return
        raise _Halted

    async def _work(self, lane: Lane) -> None:
        while (batch := await self._next()) is not None:
            try:
                await self._deliver(batch, lane)
            except _Halted:
                return
            except StateRefused:
                # Nothing more may be sent, as nothing more can be noted. The writer tells why when it is closed.
                self._stop(Halt.by("guard.storage", exit_code=ExitCode.SETTINGS))
                return
            except BaseException:
                self._stop(Halt.by("guard.unfinished", exit_code=ExitCode.INTERNAL))
                raise
            finally:
                self._in_flight -= 1
                self._tell_change()

    def _tell_change(self) -> None:
        """Whoever waits for a change looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next(self) -> Batch | None:
        """The next batch, once it may be sent; None when there is nothing more to do."""
        while not self._stopping.is_set():
            if self._peeked is None and (found := next(self._batches, None)) is not None:
                self._peeked = found
            batch = self._peeked
            if batch is None:
                return None
            # The same person may stand in the file under two identifier types: their requests must not
            # be in flight together. And until one row has succeeded, one request at a time is enough.
            alone = batch.identifier_type != self._identifier_type or self._guards.proving
            if not (alone and self._in_flight):
                self._peeked = None
                self._identifier_type = batch.identifier_type
                self._in_flight += 1
                return batch
            await self._changed.wait()
        return None

    async def _deliver(self, batch: Batch, lane: Lane) -> None:
        """Bring a batch to its end: results for every row, or attempts that ran out, or a stop."""
        size = len(batch.rows)
        if size > self._largest:
            step = self._largest  # another lane, or the first part, may find that even this is too large
            for start in range(0, size, step):
                await self._deliver(batch.part(start, start + step), lane)
            return
        refused_before = False

        async def attempt() -> Verdict:
            nonlocal refused_before
            verdict, fresh = await self._attempt(batch, lane)
            if verdict.renew and (refused_before or not fresh):
                self._stop(Halt.by("guard.credentials", verdict.reason, exit_code=ExitCode.SETTINGS))
                raise _Halted
            refused_before = verdict.renew
            return verdict

        verdict = await attempts(attempt, max_attempts=self._limits.max_attempts, sleep=self._sleep, rng=self._random)
        if verdict.split:
            self._largest = min(self._largest, -(-size // 2))
            self._log.warning("batch.cut", batch=batch.number, rows=size, most=self._largest)
            await self._deliver(batch, lane)
        elif verdict.void:
            self._stop(self._guards.ran_out(size))
            self._log.warning("batch.given_up", batch=batch.number, rows=size, reason=verdict.reason)
            self._watch(self._guards.counters)

    async def _attempt(self, batch: Batch, lane: Lane) -> tuple[Verdict, bool]:
        """One attempt: its verdict, and whether a fresh token stands ready where it was refused."""
        if self._guards.outage:
            await self._await_turn(lane)
        try:
            headers, token = await at_its_turn(self._auth, self._pace.slot)
        except TokenUnavailable as trouble:
            if trouble.throttled:
                self._throttle(trouble.wait)
                return Verdict(void=True, reason=trouble.reason, again=True, counts=False), True
            # Without a token nothing can be sent for anybody: an outage, and nothing against this batch.
            self._guards.unreachable()
            return self._unreached(Verdict(void=True, reason=trouble.reason, again=True), lane), True
        except CredentialsRefused as trouble:
            self._stop(Halt.by("guard.credentials", trouble.message, exit_code=ExitCode.SETTINGS))
            raise _Halted from None
        endpoint = ROUTES[batch.route]
        prepared = lane.build(endpoint.request(batch, self._to_issue), headers)
        if self._stopping.is_set():
            raise _Halted
        number = self._next_attempt
        self._next_attempt += 1
        try:
            await self._writer.note(Intent(number, batch.number, batch.rows, _now()))
        except asyncio.CancelledError:
            # Given up by a second signal while the intent was on its way to the disk: not a byte was sent.
            self._writer.put(Answer(number, _now(), "guard.signal", None))
            raise
        reached("intent.noted")
        self._guards.counters.attempts += 1
        try:
            sending = await lane.send(prepared)
        except asyncio.CancelledError:
            # Given up by a second signal, after the intent: it may have been sent.
            self._settle(number, batch, MaybeSent("net.cancelled"), lane)
            raise
        verdict = self._settle(number, batch, sending, lane)
        return verdict, await self._auth.renew(token) if verdict.renew else True

    def _settle(self, number: int, batch: Batch, sending: Sending, lane: Lane) -> Verdict:
        """
        RunJournal what came of an attempt, count it, and see whether that is a reason to stop.

        Nobody waits for the answer to be on the disk: were it lost, its rows would be unknown, as they are until
        then. It is in the journal before any later intent is, so before its rows can be sent again.
        """
        reached("answer.received")
        try:
            verdict = judge(sending, batch, ROUTES[batch.route], self._to_issue)
        except Exception:
            # A fault of ours, which ends the run. It must not cost the answer as well.
            self._writer.put(_unjudged(number, sending))
            raise
        self._writer.put(_answer(number, sending, verdict))
        self._say(batch, verdict)
        if isinstance(sending, NotSent):
            verdict = self._unreached(verdict, lane)
        else:
            self._reached()
        if verdict.throttled:
            self._throttle(verdict.wait, sending.quota if isinstance(sending, Reply) else None)
        elif isinstance(sending, MaybeSent) or (
            isinstance(sending, Reply) and verdict.doubtful and sending.status >= 500
        ):
            self._pace.troubled()
            self._pace_due = 0.0
        elif isinstance(sending, Reply):
            self._pace.accepted(sending.quota)
        if verdict.results is not None:
            self._stop(self._guards.settled(verdict.results, len(batch.rows), verdict.stop))
        self._note_pace()
        self._watch(self._guards.counters)
        return verdict

    def _throttle(self, wait: float | None, quota: Quota | None = None) -> None:
        """The service asked all lanes to wait."""
        waited = self._pace.refused(wait=wait, quota=quota)
        self._guards.counters.waits += 1
        self._guards.counters.waited_seconds += waited
        self._writer.put(Event("service.throttled", _now(), {"seconds": round(waited, 3)}))
        self._pace_due = 0.0
        self._note_pace()
        halt = self._guards.throttled(wait, self._pace.waited_in_a_row)
        self._stop(halt)
        if halt is not None:
            self._pace.give_up()

    def _note_pace(self) -> None:
        """Note the pace where it has changed, so that others can see it: looked at once a second, and in a hold."""
        now = time.monotonic()
        if now < self._pace_due:
            return
        state = self._guards.counters.pace = self._pace.state()
        hold = (state.until or 0) / 1000 - time.time() if state.per_minute == 0 else PACE_SECONDS
        self._pace_due = now + min(PACE_SECONDS, max(0.0, hold))
        if self._pace_noted is None or _differs(state, self._pace_noted):
            self._pace_noted = state
            self._writer.put(Event(PACE_CHANGED, _now(), asdict(state)))

    async def _await_turn(self, lane: Lane) -> None:
        """In an outage one lane goes on trying, the others wait here until it gets through."""
        while self._guards.outage and self._probe not in {None, lane} and not self._stopping.is_set():
            await self._changed.wait()
        if self._guards.outage and self._probe is None:
            self._probe = lane
            self._log.warning("service.lost", probes=len(self._probe_seconds))
        if self._stopping.is_set():
            raise _Halted

    def _unreached(self, verdict: Verdict, lane: Lane) -> Verdict:
        """An attempt reached nobody. In an outage that is nothing against its batch, and the probe's waits grow."""
        self._guards.not_sent(self._in_flight)
        if not self._guards.outage:
            return verdict
        wait = 0.0
        if self._probe is lane:
            if self._probes == len(self._probe_seconds):
                self._stop(Halt.by("guard.outage", verdict.reason))
                raise _Halted
            wait = self._probe_seconds[self._probes]
            self._probes += 1
        return replace(verdict, counts=False, wait=wait)

    def _reached(self) -> None:
        self._guards.reached()
        if self._probe is not None:
            self._log.warning("service.found")
            self._probe, self._probes = None, 0
            self._tell_change()

    def _say(self, batch: Batch, verdict: Verdict) -> None:
        if verdict.void or verdict.doubtful or verdict.stop or verdict.notes:
            reasons = verdict.results.reasons() if verdict.results is not None else [verdict.reason]
            self._answers.warning(
                f"{verdict.status} {' '.join(reasons)} {' '.join(verdict.notes)}".strip(),
                batch=batch.number,
                rows=len(batch.rows),
                http_status=verdict.status,
                request_id=verdict.request_id,
                void=verdict.void,
                reasons=reasons,
                notes=list(verdict.notes),
            )


def _differs(state: PaceState, noted: PaceState) -> bool:
    """Whether somebody would want to know: not of each step of a climb."""
    ends = abs((state.until or 0) - (noted.until or 0)) > 1000 * PACE_SECONDS
    return state.why != noted.why or ends or abs(state.per_minute - noted.per_minute) > _NOTICED * state.allowed


def _answer(number: int, sending: Sending, verdict: Verdict) -> Answer:
    body = sending.body if isinstance(sending, Reply) and verdict.doubtful else None
    return Answer(
        number,
        _now(),
        verdict.reason if verdict.void else None,
        verdict.results,
        verdict.status,
        verdict.request_id,
        body,
    )


def _unjudged(number: int, sending: Sending) -> Answer:
    reason = "answer.unreadable"
    results = Results(Outcome.UNKNOWN.value, reason, REASONS[reason])
    reply = sending if isinstance(sending, Reply) else Reply(0, b"")
    return Answer(number, _now(), None, results, reply.status, reply.request_id, reply.body)


def _now() -> int:
    return time.time_ns() // 1_000_000
