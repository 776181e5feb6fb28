"""
What is to be seen while a run sends: one live area on a terminal, a line now and then on one that cannot rewrite, and
nothing where no person looks. No identifiers.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bulkissue.outcomes import Outcome
from bulkissue.send.guards import Counters
from bulkissue.service.codes import meaning

if TYPE_CHECKING:
    from bulkissue.commands.status import Status

#: Times a second that the area is drawn, and seconds between lines where it cannot be.
_DRAWN, _LINES_SECONDS = 4, 10.0
_MOST_REASONS = 3
#: Columns that a bar needs beside its figures.
_BAR_FROM = 60
_COLOURS = {Outcome.SUCCEEDED: "green", Outcome.FAILED: "red", Outcome.UNKNOWN: "yellow"}


@dataclass(frozen=True, slots=True)
class Standing:
    """
    Where a run stands, as it is shown.

    Attributes:
        phase: What is being done.
        answered: Rows whose sending has ended.
        rows: Rows to send in all.
        counts: Rows by outcome.
        reasons: Rows that did not succeed, by reason.
        pace: What the pace is, and why; empty where it is not known.
        waits: How often the service asked to wait, and
        waited_seconds: for how long in all.
        seconds_left: About; None where it cannot be said.
    """

    phase: str
    answered: int = 0
    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    pace: str = ""
    waits: int = 0
    waited_seconds: float = 0.0
    seconds_left: float | None = None

    @classmethod
    def of(cls, found: "Status") -> "Standing":
        """The same of a run that another process works on."""
        rest = found.counts[Outcome.NOT_ATTEMPTED]
        return cls(
            found.state,
            max(found.to_send - rest, 0),
            found.to_send,
            found.counts,
            found.reasons,
            found.pace.words() if found.pace is not None else "",
            found.waits,
            found.waited_seconds,
            found.seconds_left,
        )

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1."""
        return self.answered / self.rows if self.rows else 1.0

    def figures(self) -> str:
        """How far it is, in words."""
        left = f", {clock(self.seconds_left)} left" if self.seconds_left is not None else ""
        return f"{self.share:.0%}, {self.answered:,} of {self.rows:,} rows{left}"

    def outcomes(self) -> Text:
        """Rows by outcome; what there is none of is left out, but for those that succeeded."""
        parts = Text(no_wrap=True, overflow="ellipsis")
        for outcome, colour in _COLOURS.items():
            if (count := self.counts.get(outcome, 0)) or outcome is Outcome.SUCCEEDED:
                parts.append(" · " if parts else "").append(f"{count:,} {outcome}", style=colour)
        return parts

    def hindrances(self) -> str:
        """The pace, and the waits."""
        times = "once" if self.waits == 1 else f"{self.waits:,} times"
        waited = f"waited {times}, {self.waited_seconds:,.0f} s in all" if self.waits else ""
        return " · ".join(part for part in (self.pace, waited) if part)

    def causes(self) -> list[str]:
        """The most frequent reasons, in words."""
        most = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))[:_MOST_REASONS]
        return [f"{rows:,} × {meaning(reason) or reason}" for reason, rows in most]

    def line(self) -> str:
        """All of it in one line, for a terminal that cannot rewrite its lines, and for logs."""
        return " · ".join(part for part in (self.figures(), self.outcomes().plain, self.hindrances()) if part)


class Area:
    """The live area: draws what `standing` gives, as wide as the terminal is at that moment."""

    def __init__(self, standing: Callable[[], Standing]) -> None:
        self._standing = standing
        self._spinner = Spinner("dots")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol: what to print."""
        found = self._standing()
        wide = options.max_width >= _BAR_FROM
        first = Table.grid(padding=(0, 1), expand=wide)
        cells: list[RenderableType] = [self._spinner, Text(found.phase, style="bold", no_wrap=True)]
        if found.rows and wide:
            cells += [ProgressBar(total=found.rows, completed=found.answered), _short(found.figures())]
        for cell in cells:
            first.add_column(ratio=1 if isinstance(cell, ProgressBar) else None)
        first.add_row(*cells)
        yield first
        if not found.rows:
            return
        if not wide:
            yield _short(found.figures())
        if found.counts:
            yield found.outcomes()
        for line in (found.hindrances(), *found.causes()):
            if line:
                yield _short(line)


class Progress:
    """
    Shows a run's progress.

    Args:
        console: Standard error.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        # Asked once: rich looks at the environment each time.
        self._rewrites = console.is_terminal and not console.is_dumb_terminal
        self._lines = console.is_terminal and console.is_dumb_terminal
        self._phase = ""
        self._asked: tuple[int, int] | None = None
        self._counters, self._rows = Counters(), 0
        self._began = 0.0
        self._next = 0.0

    def phase(self, name: str) -> None:
        """Something else is being done from now on; nothing where `name` is empty, so that a person can be asked."""
        self._phase, self._asked = name, None
        if not name:
            self.close()
        elif self._rewrites and self._live is None:
            self._live = Live(
                Area(self._standing),
                console=self._console,
                transient=True,
                refresh_per_second=_DRAWN,
                redirect_stdout=False,
                vertical_overflow="crop",
            )
            self._live.start()

    def tell(self, counters: Counters, rows: int) -> None:
        """Take in the counters, with `rows` to send in all."""
        if self._phase != "sending":
            self._began = time.monotonic()
            self.phase("sending")
        self._counters, self._rows = counters, rows
        if self._lines and (now := time.monotonic()) >= self._next:
            self._next = now + _LINES_SECONDS
            self._console.print(self._standing().line(), soft_wrap=True)

    def ask(self, what: str, asked: int, of: int) -> None:
        """Take in how many were asked of the service, of how many, where nothing is issued; `what` says it in words."""
        now = time.monotonic()
        if self._rewrites:
            if self._phase != what:
                self._began = now
                self.phase(what)
            self._asked = asked, of
        elif now >= self._next or asked == of:
            self._next = now + _LINES_SECONDS
            self._console.print(f"{asked:,} of {of:,} {what}", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _standing(self) -> Standing:
        """Called from the thread that draws; what it reads may change meanwhile, and is copied at once."""
        elapsed = time.monotonic() - self._began
        if (asking := self._asked) is not None:
            asked, of = asking
            left = elapsed * (of - asked) / asked if 0 < asked < of else None
            return Standing(self._phase, asked, of, seconds_left=left)
        counters, rows = self._counters, self._rows
        answered = counters.answered
        known = 0 < answered < rows
        return Standing(
            self._phase,
            answered,
            rows,
            dict(counters.rows),
            dict(counters.reasons),
            counters.pace.words() if counters.pace is not None else "",
            counters.waits,
            counters.waited_seconds,
            elapsed * (rows - answered) / answered if known else None,
        )


def clock(seconds: float) -> str:
    """A time as a clock has it: 1:05, 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def following(console: Console, standings: Iterable[Standing]) -> None:
    """
    Show one standing after another, until there are no more: live on a terminal, else a line for each that differs.

    Args:
        console: Standard error.
        standings: They wait between each other themselves.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        now = Standing("looking")
        with Live(Area(lambda: now), console=console, transient=True, refresh_per_second=_DRAWN, redirect_stdout=False):
            for now in standings:  # noqa: B007 - the area reads it
                pass
        return
    said = ""
    for standing in standings:
        if (line := standing.line()) != said:
            said = line
            console.print(line, soft_wrap=True)


def _short(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
