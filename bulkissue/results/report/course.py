"""
The course of a run: how fast rows were answered, how long answers took, what was tried again, where it waited.

Reads the journal's times, never its answers. About 30 bytes of memory for each attempt.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import chain, count, islice, pairwise

import msgspec
import polars as pl

from bulkissue.exchange import PaceState
from bulkissue.state.entries import PACE_CHANGED, Event
from bulkissue.state.protocols import RunJournal

_MOST_INTERVALS = 60
_MOST_PAUSES = 20
#: Nothing in flight for longer than this is a pause, also where nobody noted an end: a crash.
_PAUSE_MS = 600_000
#: Shorter than this is no pause.
_BREATH_MS = 1_000
_CHUNK = 100_000
_STEPS_MS = (
    *(100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000),
    *(60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 43_200_000),
)
_DAY_MS = 86_400_000

_SCHEMA = pl.Schema(
    {
        "batch": pl.UInt32(),
        "rows": pl.UInt32(),
        "sent_at": pl.Int64(),
        "answered_at": pl.Int64(),
        "void": pl.Categorical(),
        "http_status": pl.UInt16(),
    }
)


@dataclass(slots=True)
class Interval:
    """
    A stretch of time.

    Attributes:
        start: Epoch milliseconds; so `end`, which is not part of it.
        rows: Answered in it.
        median: Milliseconds from send to answer: half of its answers were quicker. None where there were none.
        slow: The same for 95 of 100.
        waited: The service had asked to wait.
        pause: Milliseconds of pause before it.
    """

    start: int
    end: int
    rows: int = 0
    median: int | None = None
    slow: int | None = None
    waited: bool = False
    pause: int = 0


@dataclass(slots=True)
class Course:
    """
    A run over time.

    Attributes:
        step: Milliseconds of each interval; a session's last one may be shorter.
        intervals: One after the other, pauses left out; empty where nothing was sent.
        median: Milliseconds from send to answer over the whole run, None where nothing was answered; so `slow`.
        sendings: How many batches were sent once, twice …
        void: Attempts proven not applied, by reason.
        unanswered: Attempts whose answer was never noted.
        waits: How often the service asked to wait.
        waited_seconds: For how long in all.
        slowed_ms: For how long the pace was under what it may be, holds among it.
        slowest: The lowest pace there was between holds, and what it may be; None where it never was.
        slowed_by: Why it was lower, as in `PaceState`, the first cause first.
    """

    step: int = 0
    intervals: list[Interval] = field(default_factory=list)
    median: int | None = None
    slow: int | None = None
    sendings: dict[int, int] = field(default_factory=dict)
    void: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    waits: int = 0
    waited_seconds: float = 0.0
    slowed_ms: int = 0
    slowest: PaceState | None = None
    slowed_by: tuple[str, ...] = ()


def trace(journal: RunJournal, events: list[Event]) -> Course:
    """
    What the journal says of a run's course.

    Args:
        journal: The run's journal.
        events: Its events.
    """
    waits = [(event.at, float(str(event.detail["seconds"]))) for event in events if event.name == "service.throttled"]
    course = Course(waits=len(waits), waited_seconds=sum(seconds for _, seconds in waits))
    _slowed(course, events)
    attempts = _attempts(journal)
    if attempts.is_empty():
        return course
    by_batch = attempts.group_by("batch").len().group_by("len").len(name="batches").sort("len")
    course.sendings = dict(by_batch.iter_rows())
    void = attempts.filter(pl.col("void").is_not_null()).group_by(pl.col("void").cast(pl.String)).len()
    course.void = dict(void.sort(["len", "void"], descending=[True, False]).iter_rows())
    course.unanswered = attempts["answered_at"].null_count()
    sessions = _sessions(attempts, [event.at for event in events if event.name.startswith("run.")])
    course.step = _step([end - start for start, end in sessions])
    for before, (start, end) in zip([None, *sessions], sessions, strict=False):
        for place in range(start, end, course.step):
            course.intervals.append(Interval(place, min(place + course.step, end)))
            if before is not None and place == start:
                course.intervals[-1].pause = start - before[1]
    _fill(course, attempts)
    for at, seconds in waits:
        for interval in course.intervals:
            interval.waited |= seconds > 0 and interval.start < at + 1000 * seconds and at < interval.end
    return course


def _slowed(course: Course, events: list[Event]) -> None:
    """How long and why the pace was lower, from the events that tell of it and those that end a session."""
    told = [event for event in events if event.name == PACE_CHANGED or event.name.startswith("run.")]
    causes: dict[str, None] = {}
    for number, event in enumerate(told):
        if event.name != PACE_CHANGED or not event.detail["why"]:
            continue
        state = msgspec.convert(event.detail, PaceState)
        ends = min([state.until or event.at, *(later.at for later in told[number + 1 : number + 2])])
        course.slowed_ms += max(0, ends - event.at)
        causes[state.why] = None
        if state.per_minute and (course.slowest is None or state.per_minute < course.slowest.per_minute):
            course.slowest = state
    course.slowed_by = tuple(causes)


def _attempts(journal: RunJournal) -> pl.DataFrame:
    timings = journal.timings()
    pieces = [pl.DataFrame(schema=_SCHEMA)]
    while rows := list(islice(timings, _CHUNK)):
        pieces.append(pl.DataFrame(rows, _SCHEMA, orient="row"))
    return pl.concat(pieces)


def _sessions(attempts: pl.DataFrame, ends: list[int]) -> list[tuple[int, int]]:
    """Stretches of time, last moment excluded, with something in flight or a wait of the run's own between."""
    times = attempts.select(
        pl.col("sent_at"), pl.max_horizontal("sent_at", "answered_at").alias("until")
    ).sort("sent_at", "until")  # fmt: skip
    times = times.with_columns(pl.col("until").cum_max().shift().alias("before"))
    gaps = times.filter(pl.col("sent_at") - pl.col("before") > _BREATH_MS).select("before", "sent_at").rows()
    pauses = [
        (before, after)
        for before, after in gaps
        if after - before > _PAUSE_MS or bisect_right(ends, after) > bisect_right(ends, before - 1)
    ]
    longest = sorted(sorted(pauses, key=lambda pause: pause[0] - pause[1])[:_MOST_PAUSES])
    first: int = attempts["sent_at"].min()  # type: ignore[assignment] # an integer column
    last: int = times["until"].max()  # type: ignore[assignment] # as above
    edges = [first, *(edge for before, after in longest for edge in (before + 1, after)), last + 1]
    return [(start, end) for number, (start, end) in enumerate(pairwise(edges)) if number % 2 == 0]


def _step(lengths: list[int]) -> int:
    """The shortest step with which all sessions fit into the intervals there may be."""
    most = max(_MOST_INTERVALS, 2 * len(lengths))
    steps = chain(_STEPS_MS, count(_DAY_MS, _DAY_MS))
    return next(step for step in steps if sum(-(-length // step) for length in lengths) <= most)


def _fill(course: Course, attempts: pl.DataFrame) -> None:
    answers = attempts.filter(pl.col("void").is_null() & (pl.col("http_status") > 0)).select(
        "rows", "answered_at", (pl.col("answered_at") - pl.col("sent_at")).alias("took")
    )
    if answers.is_empty():
        return
    measures = (
        pl.col("rows").sum(),
        pl.col("took").quantile(0.5, "lower").cast(pl.Int64).alias("median"),
        pl.col("took").quantile(0.95, "lower").cast(pl.Int64).alias("slow"),
    )
    _, course.median, course.slow = answers.select(measures).row(0)
    starts = pl.Series("start", [interval.start for interval in course.intervals])
    place = starts.search_sorted(answers["answered_at"], side="right")
    found = answers.with_columns((place.cast(pl.Int64) - 1).alias("place")).group_by("place").agg(measures)
    for number, rows, median, slow in found.iter_rows():
        interval = course.intervals[number]
        interval.rows, interval.median, interval.slow = rows, median, slow
