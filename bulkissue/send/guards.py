"""
Guards: when a run must stop although there is more to send. Pure; no clock, no I/O.

A guard never undoes or repeats anything. It says stop; the run drains, writes its ledgers, and can be
resumed.
"""

from collections import Counter
from dataclasses import dataclass, field

from bulkissue.errors import ExitCode
from bulkissue.exchange import PaceState
from bulkissue.job.model import GuardsSection
from bulkissue.outcomes import REASONS, Outcome, Results

#: Rows that must have been answered before the failed ratio means anything.
RATIO_AFTER_ROWS = 200
#: A longer wait than this, asked for or added up without an answer between, stops the run.
LONGEST_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a run stops before its end; `reason` is a `guard` code."""

    exit_code: ExitCode
    reason: str
    message: str

    @classmethod
    def by(cls, reason: str, detail: str = "", exit_code: ExitCode = ExitCode.STOPPED) -> "Halt":
        """A halt whose message is the reason's own, with a detail behind it."""
        message = REASONS[reason]
        return cls(exit_code, reason, f"{message}: {detail}" if detail else message)


@dataclass(slots=True)
class Counters:
    """
    What this session has done so far.

    Attributes:
        rows: By outcome.
        reasons: Rows that did not succeed, by reason.
        attempts: Sendings.
        waits: How often the service asked to wait.
        waited_seconds: For how long in all.
        pace: How fast it is sending, and why not faster; None before the first answer.
    """

    rows: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    waits: int = 0
    waited_seconds: float = 0.0
    pace: PaceState | None = None

    @property
    def answered(self) -> int:
        """Rows whose attempts have ended, one way or another."""
        return self.rows.total()


class Guards:
    """
    Watches verdicts and says when to stop.

    Args:
        settings: `[guards]`.

    Attributes:
        counters: What was done so far.
        outage: Whether the service seems to be out of reach.
    """

    def __init__(self, settings: GuardsSection) -> None:
        self.counters = Counters()
        self.outage = False
        self._settings = settings
        self._not_sent = 0
        self._ran_out = 0

    @property
    def proving(self) -> bool:
        """Whether the canary still sings alone: no row has succeeded yet."""
        return self._settings.canary and not self.counters.rows[Outcome.SUCCEEDED]

    def reached(self) -> None:
        """Something came back, or a request went out: there is no outage."""
        self._not_sent, self.outage = 0, False

    def unreachable(self) -> None:
        """Nothing can reach the service, whichever lane tries."""
        self.outage = True

    def not_sent(self, lanes: int) -> None:
        """An attempt did not reach the service; so many in a row as `lanes` are at work, but two, are an outage."""
        self._not_sent += 1
        self.outage = self.outage or self._not_sent >= max(2, lanes)

    def throttled(self, asked: float | None, waited_in_a_row: float) -> Halt | None:
        """The service asked to wait `asked` seconds; without an answer between it has been `waited_in_a_row`."""
        longest = max(asked or 0.0, waited_in_a_row)
        if longest > LONGEST_WAIT_SECONDS:
            return Halt.by("guard.throttled", f"{longest:.0f} seconds")
        return None

    def settled(self, results: Results, rows: int, stop: str = "") -> Halt | None:
        """So many rows got their results; `stop` is the refusal among them that every row would meet, if there is."""
        if isinstance(results.outcome, str):
            self.counters.rows[results.outcome] += rows
        else:
            self.counters.rows.update(results.outcome)
        if results.outcome != Outcome.SUCCEEDED:
            self._count_reasons(results, rows)
        if stop:
            return Halt.by("guard.refusal", stop)
        return self._judge()

    def ran_out(self, rows: int) -> Halt | None:
        """Attempts on so many rows ran out, each proven not applied."""
        self.counters.rows[Outcome.FAILED] += rows
        self._ran_out += rows
        return self._judge()

    def _count_reasons(self, results: Results, rows: int) -> None:
        if isinstance(results.outcome, str) and isinstance(results.reason, str):
            self.counters.reasons[results.reason] += rows
            return
        outcomes = [results.outcome] * rows if isinstance(results.outcome, str) else results.outcome
        reasons = [results.reason] * rows if isinstance(results.reason, str) else results.reason
        told = zip(outcomes, reasons, strict=True)
        self.counters.reasons.update(reason for outcome, reason in told if outcome != Outcome.SUCCEEDED)

    def _judge(self) -> Halt | None:
        rows, settings = self.counters.rows, self._settings
        unknown, failed, ended = rows[Outcome.UNKNOWN], rows[Outcome.FAILED], self.counters.answered
        # What reached nobody says nothing about the job; an outage has a guard of its own.
        answered = ended - self._ran_out
        if unknown > settings.max_unknown:
            return Halt.by("guard.max_unknown", f"{unknown} rows")
        if self.proving and answered >= settings.canary_rows:
            return Halt.by("guard.canary", f"{answered} rows")
        if failed > settings.max_failed:
            return Halt.by("guard.max_failed", f"{failed} rows")
        if ended >= RATIO_AFTER_ROWS and failed > ended * settings.max_failed_ratio:
            return Halt.by("guard.max_failed_ratio", f"{failed} of {ended} rows")
        return None
