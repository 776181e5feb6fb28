"""
Figures: places and words of the page's drawings, which the template draws as inline SVG.

Pure. Places across are percentages and places down are pixels, so that a figure fits any width and its lines and texts
keep their size. Every figure says in words what it shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from bulkissue.outcomes import Outcome
from bulkissue.results.report.course import Course, Interval

BAR_HEIGHT = 44
PLOT_HEIGHT = 120
#: Percent of the width below which a share cannot be seen.
_LEAST_SEEN = 1.5
_ROOM = 6
_DAY_MS = 86_400_000
_UNITS = ((_DAY_MS, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle of a figure, of a class of the style sheet, with the words that are shown when one points at it."""

    kind: str
    x: float
    width: float
    y: float
    height: float
    tip: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, all rows, a segment for each outcome; `widened` where the smallest are drawn wider than they are."""

    segments: tuple[Mark, ...]
    told: str
    widened: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """
    Marks over time: columns, or steps with a line at both ends.

    Attributes:
        marks: What was measured.
        waits: Where the service had asked to wait.
        pauses: Places across, and what is left out there.
        levels: Places down of the lines behind.
        labels: The values at the upper two levels.
        ends: When it begins and ends.
        told: All of it in words.
    """

    marks: tuple[Mark, ...]
    waits: tuple[Mark, ...]
    pauses: tuple[tuple[float, str], ...]
    levels: tuple[float, ...]
    labels: tuple[str, str]
    ends: tuple[str, str]
    told: str


def outcome_bar(counts: Mapping[str, int]) -> Bar:
    """
    One bar, all rows, a segment for each outcome; a share too small to be seen is drawn wider.

    Args:
        counts: Rows by outcome; what else is in it is not looked at.
    """
    present = {outcome: counts[outcome] for outcome in Outcome if counts.get(outcome)}
    rows = sum(present.values())
    if not rows:
        return Bar((), "no rows", widened=False)
    segments, left = [], 0.0
    for (outcome, count), width in zip(
        present.items(), _visible([100 * count / rows for count in present.values()]), strict=True
    ):
        tip = f"{words(outcome)}: {count:,} of {rows:,} rows, {share(count, rows)}"
        segments.append(Mark(outcome.value, left, width, 0.0, BAR_HEIGHT, tip))
        left += width
    told = ", ".join(f"{count:,} {words(outcome)}" for outcome, count in present.items())
    widened = min(present.values()) / rows < _LEAST_SEEN / 100 and len(present) > 1
    return Bar(tuple(segments), f"{rows:,} rows: {told}", widened=widened)


def _visible(widths: Sequence[float]) -> list[float]:
    """The widths, in percent, none less than can be seen; what that takes comes from the wide ones."""
    raised = [max(width, _LEAST_SEEN) for width in widths]
    spare = sum(width - _LEAST_SEEN for width in raised)
    over = sum(raised) - 100
    return [width - over * (width - _LEAST_SEEN) / spare if spare else width for width in raised]


def throughput(course: Course) -> Plot:
    """Rows answered in each interval, as columns; intervals in which the service had asked to wait are shaded."""
    most = max(interval.rows for interval in course.intervals)
    top = _round_up(most)
    marks = []
    for interval, left, width in _across(course):
        if interval.rows:
            height = max(1.5, interval.rows / top * (PLOT_HEIGHT - _ROOM))
            tip = f"{_span(interval)}: {interval.rows:,} rows"
            marks.append(Mark("column", left + 0.08 * width, 0.84 * width, PLOT_HEIGHT - height, height, tip))
    return _plot(
        course,
        marks,
        labels=(f"{top:,.0f}", f"{top / 2:,.0f}" if top > 1 else ""),
        told=f"Rows answered in each {duration(course.step)}: at most {most:,}",
    )


def answer_times(course: Course) -> Plot:
    """Median and 95th percentile of the time from send to answer in each interval, as steps."""
    top = _round_up(max(interval.slow or 0 for interval in course.intervals))

    def place(value: int) -> float:
        return PLOT_HEIGHT - value / top * (PLOT_HEIGHT - _ROOM)

    marks = []
    for interval, left, width in _across(course):
        if interval.median is not None and interval.slow is not None:
            low, high = place(interval.median), place(interval.slow)
            median, slow = duration(interval.median), duration(interval.slow)
            tip = f"{_span(interval)}: median {median}, 95 of 100 within {slow}"
            marks.append(Mark("between", left, width, high, max(0.0, low - high), tip))
    median, slow = duration(course.median or 0), duration(course.slow or 0)
    return _plot(
        course,
        marks,
        labels=(duration(top), duration(top / 2)),
        told=f"Time from send to answer: median {median}, 95 of 100 within {slow}",
    )


def _across(course: Course) -> Iterator[tuple[Interval, float, float]]:
    """Each interval with its place and its width, in percent."""
    length = sum(interval.end - interval.start for interval in course.intervals)
    left = 0.0
    for interval in course.intervals:
        width = 100 * (interval.end - interval.start) / length
        yield interval, left, width
        left += width


def _plot(course: Course, marks: Sequence[Mark], labels: tuple[str, str], told: str) -> Plot:
    waits, pauses = [], []
    for interval, left, width in _across(course):
        if interval.waited:
            tip = f"{_span(interval)}: the service had asked to wait"
            waits.append(Mark("wait", left, width, 0.0, PLOT_HEIGHT, tip))
        if interval.pause:
            pauses.append((left, f"a pause of {duration(interval.pause)} is left out here"))
    first, last = course.intervals[0].start, course.intervals[-1].end
    finely = course.step < 1_000
    begins, ends = (
        clock(moment, day=first // _DAY_MS != last // _DAY_MS) + (f".{moment % 1000 // 100}" if finely else "")
        for moment in (first, last)
    )
    levels = (_ROOM, (PLOT_HEIGHT + _ROOM) / 2, PLOT_HEIGHT - 0.5)
    return Plot(tuple(marks), tuple(waits), tuple(pauses), levels, labels, (begins, ends), told)


def _round_up(value: float) -> float:
    """The next of 1, 2, 3, 4, 5, 6, 8 times a power of ten."""
    power = 1
    while value > 10 * power:
        power *= 10
    return next(float(step * power) for step in (1, 2, 3, 4, 5, 6, 8, 10) if value <= step * power)


def words(outcome: str) -> str:
    """An outcome as people write it."""
    return outcome.replace("_", " ")


def share(part: int, whole: int) -> str:
    """A share in percent; what is not nothing never reads 0, and what is not all never reads 100."""
    if part in {0, whole}:
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def duration(milliseconds: float) -> str:
    """A length of time in one or two units."""
    whole = round(milliseconds)
    if whole < 1_000:
        return f"{whole} ms"
    if whole < 60_000:
        return f"{whole / 1000:.3g} s"
    (size, name), (small, smaller) = next(pair for pair in pairwise(_UNITS) if whole >= pair[0][0])
    rest = whole % size // small
    return f"{whole // size} {name} {rest} {smaller}" if rest else f"{whole // size} {name}"


def clock(milliseconds: int, *, day: bool = False) -> str:
    """A moment, UTC; with its day where asked for."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}" if day else f"{moment:%H:%M:%S}"


def _span(interval: Interval) -> str:
    return f"{clock(interval.start)} to {clock(interval.end)}"
