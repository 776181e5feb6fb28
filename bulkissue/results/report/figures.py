"""
Figures: inline SVG that needs no script, no font and no network, and prints.

Pure. Places across are percentages and places down are pixels, so that a figure fits any width and its lines and texts
keep their size. Every figure says in words what it shows. Colours come by class from the style sheet.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from bulkissue.outcomes import Outcome
from bulkissue.results.report.course import Course, Interval
from bulkissue.results.report.markup import Html, element, together

_BAR_HEIGHT = 44
#: Percent of the width below which a share cannot be seen.
_LEAST_SEEN = 1.5
_PLOT_HEIGHT = 120
_ROOM = 6
_DAY_MS = 86_400_000
_UNITS = ((_DAY_MS, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def outcome_bar(counts: Mapping[str, int], name: str) -> Html:
    """
    One bar, all rows, a segment for each outcome; a share too small to be seen is drawn wider.

    Args:
        counts: Rows by outcome; what else is in it is not looked at.
        name: Tells this bar from others on the page; a part of an element's id.
    """
    present = {outcome: counts[outcome] for outcome in Outcome if counts.get(outcome)}
    rows = sum(present.values())
    if not rows:
        return element(
            "svg",
            element("rect", width="100%", height=_BAR_HEIGHT, rx=3, class_="nothing"),
            class_="bar",
            height=_BAR_HEIGHT,
            role="img",
            aria_label="no rows",
        )
    widths = _visible([100 * count / rows for count in present.values()])
    segments, left = [], 0.0
    for (outcome, count), width in zip(present.items(), widths, strict=True):
        tip = element("title", f"{words(outcome)}: {count:,} of {rows:,} rows, {share(count, rows)}")
        place = {"x": f"{left:.3f}%", "width": f"{width:.3f}%", "height": _BAR_HEIGHT}
        segments.append(element("rect", tip, class_=f"segment {outcome}", **place))
        if outcome is Outcome.UNKNOWN:  # marked twice, for those who see or print no colours
            segments.append(element("rect", tip, fill=f"url(#hatch-{name})", **place))
        left += width
    hatch = element(
        "pattern",
        element("path", d="M-2 2 2 -2M0 8 8 0M6 10 10 6", class_="hatch"),
        id=f"hatch-{name}",
        width=8,
        height=8,
        patternUnits="userSpaceOnUse",
    )
    small = min(present.values()) / rows < _LEAST_SEEN / 100 and len(present) > 1
    told = ", ".join(f"{count:,} {words(outcome)}" for outcome, count in present.items())
    bar = element(
        "svg",
        element("defs", hatch) if Outcome.UNKNOWN in present else "",
        *segments,
        class_="bar",
        height=_BAR_HEIGHT,
        role="img",
        aria_label=f"{rows:,} rows: {told}",
    )
    return together(bar, element("small", "The smallest shares are drawn wider than they are.") if small else "")


def _visible(widths: Sequence[float]) -> list[float]:
    """The widths, in percent, none less than can be seen; what that takes comes from the wide ones."""
    raised = [max(width, _LEAST_SEEN) for width in widths]
    spare = sum(width - _LEAST_SEEN for width in raised)
    over = sum(raised) - 100
    return [width - over * (width - _LEAST_SEEN) / spare if spare else width for width in raised]


def throughput(course: Course) -> Html:
    """Rows answered in each interval, as columns; intervals in which the service had asked to wait are shaded."""
    most = max(interval.rows for interval in course.intervals)
    top = _round_up(most)

    def column(interval: Interval, left: float, width: float) -> Html:
        if not interval.rows:
            return Html("")
        height = max(1.5, interval.rows / top * (_PLOT_HEIGHT - _ROOM))
        tip = element("title", f"{_span(interval)}: {interval.rows:,} rows")
        return element(
            "rect",
            tip,
            class_="column",
            x=f"{left + 0.08 * width:.3f}%",
            width=f"{0.84 * width:.3f}%",
            y=f"{_PLOT_HEIGHT - height:.1f}",
            height=f"{height:.1f}",
        )

    return _plot(
        course,
        column,
        labels=(f"{top:,.0f}", f"{top / 2:,.0f}" if top > 1 else ""),
        told=f"Rows answered in each {duration(course.step)}: at most {most:,}",
    )


def answer_times(course: Course) -> Html:
    """Median and 95th percentile of the time from send to answer in each interval, as steps."""
    top = _round_up(max(interval.slow or 0 for interval in course.intervals))

    def height(value: int) -> float:
        return _PLOT_HEIGHT - value / top * (_PLOT_HEIGHT - _ROOM)

    def steps(interval: Interval, left: float, width: float) -> Html:
        if interval.median is None or interval.slow is None:
            return Html("")
        low, high = height(interval.median), height(interval.slow)
        tip = element(
            "title",
            f"{_span(interval)}: median {duration(interval.median)}, 95 of 100 within {duration(interval.slow)}",
        )
        across = {"x1": f"{left:.3f}%", "x2": f"{left + width:.3f}%"}
        return together(
            element(
                "rect",
                tip,
                class_="between",
                x=f"{left:.3f}%",
                width=f"{width:.3f}%",
                y=f"{high:.1f}",
                height=f"{max(0.0, low - high):.1f}",
            ),
            element("line", class_="slow", y1=f"{high:.1f}", y2=f"{high:.1f}", **across),
            element("line", class_="median", y1=f"{low:.1f}", y2=f"{low:.1f}", **across),
        )

    return _plot(
        course,
        steps,
        labels=(duration(top), duration(top / 2)),
        told=f"Time from send to answer: median {duration(course.median or 0)}, "
        f"95 of 100 within {duration(course.slow or 0)}",
    )


def _plot(course: Course, mark: Callable[[Interval, float, float], Html], labels: tuple[str, str], told: str) -> Html:
    """A frame with two levels, shaded waits and dashed pauses, and what `mark` draws for each interval."""
    length = sum(interval.end - interval.start for interval in course.intervals)
    grid = [
        element("line", x1="0", x2="100%", y1=f"{level:.1f}", y2=f"{level:.1f}", class_="level")
        for level in (_ROOM, (_PLOT_HEIGHT + _ROOM) / 2, _PLOT_HEIGHT - 0.5)
    ]
    shades, marks, pauses, left = [], [], [], 0.0
    for interval in course.intervals:
        width = 100 * (interval.end - interval.start) / length
        if interval.waited:
            tip = element("title", f"{_span(interval)}: the service had asked to wait")
            shades.append(
                element("rect", tip, class_="wait", x=f"{left:.3f}%", width=f"{width:.3f}%", height=_PLOT_HEIGHT)
            )
        marks.append(mark(interval, left, width))
        if interval.pause:
            tip = element("title", f"a pause of {duration(interval.pause)} is left out here")
            place = f"{left:.3f}%"
            pauses.append(element("line", tip, class_="pause", x1=place, x2=place, y1="0", y2=_PLOT_HEIGHT))
        left += width
    drawing = element("svg", *shades, *grid, *marks, *pauses, height=_PLOT_HEIGHT, role="img", aria_label=told)
    scale = element("div", element("span", labels[0]), element("span", labels[1]), class_="scale", aria_hidden="true")
    first, last = course.intervals[0].start, course.intervals[-1].end
    finely = course.step < 1_000
    ends = [
        clock(moment, day=first // _DAY_MS != last // _DAY_MS) + (f".{moment % 1000 // 100}" if finely else "")
        for moment in (first, last)
    ]
    axis = element("div", *(element("span", end) for end in ends), class_="axis")
    return element("div", scale, drawing, axis, class_="plot")


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
