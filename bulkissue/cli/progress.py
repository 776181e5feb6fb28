"""Progress while a run sends: one line that rewrites itself on a terminal, nothing elsewhere. No identifiers."""

import time

from rich.console import Console

from bulkissue.outcomes import Outcome
from bulkissue.send.guards import Counters

_EVERY_SECONDS = 0.2


class Progress:
    """
    The progress line.

    Args:
        console: Standard error.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = console.is_terminal  # asked once: rich looks at the environment each time
        self._started = time.monotonic()
        self._next = 0.0

    def tell(self, counters: Counters, rows: int) -> None:
        """Show the counters, with `rows` to send in all; at most a few times a second, and once at the end."""
        if not self._shown:
            return
        now = time.monotonic()
        if now < self._next and counters.answered < rows:
            return
        self._next = now + _EVERY_SECONDS
        share = counters.answered / rows if rows else 1.0
        elapsed = now - self._started
        remaining = f", {elapsed / share - elapsed:,.0f} s left" if 0 < share < 1 else ""
        counts = ", ".join(
            f"{counters.rows[outcome]:,} {outcome}" for outcome in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.UNKNOWN)
        )
        pace = f" · {counters.pace.words()}" if counters.pace is not None and counters.pace.why else ""
        end = "\n" if counters.answered >= rows else ""
        self._console.print(f"\r\x1b[K{share:4.0%} {counts}{remaining}{pace}", end=end, soft_wrap=True)
