"""The guards, as a pure table: what was answered so far, and whether that is a reason to stop."""

from typing import Any

import pytest

from bulkissue.errors import ExitCode
from bulkissue.job.model import GuardsSection
from bulkissue.outcomes import REASONS, Outcome, Results, RowResult
from bulkissue.send.guards import LONGEST_WAIT_SECONDS, RATIO_AFTER_ROWS, Guards, Halt

S, F, U = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.UNKNOWN


def answered(**rows: int) -> tuple[Results, int]:
    results = [RowResult(Outcome(name), "api.8015") for name, many in rows.items() for _ in range(many)]
    return Results.of(results), len(results)


def guards(**settings: Any) -> Guards:
    return Guards(GuardsSection(**{"canary": False, "max_failed_ratio": 1.0, **settings}))


def reason(halt: Halt | None) -> str | None:
    return None if halt is None else halt.reason


@pytest.mark.parametrize(
    ("settings", "before", "then", "expected"),
    [
        ({"max_unknown": 10}, {"unknown": 5}, {"unknown": 5}, None),
        ({"max_unknown": 10}, {"unknown": 5}, {"unknown": 6}, "guard.max_unknown"),
        ({"max_unknown": 0}, {"succeeded": 5}, {"unknown": 1}, "guard.max_unknown"),
        ({"max_failed": 10}, {"failed": 10}, {"succeeded": 1}, None),
        ({"max_failed": 10}, {"failed": 10}, {"failed": 1}, "guard.max_failed"),
        ({"max_failed_ratio": 0.5}, {"failed": RATIO_AFTER_ROWS - 2}, {"failed": 1}, None),
        ({"max_failed_ratio": 0.5}, {"failed": 100}, {"succeeded": 100}, None),
        ({"max_failed_ratio": 0.5}, {"failed": 101}, {"succeeded": 99}, "guard.max_failed_ratio"),
        ({"max_failed_ratio": 0.0}, {"succeeded": RATIO_AFTER_ROWS}, {"failed": 1}, "guard.max_failed_ratio"),
        ({"canary": True, "canary_rows": 10}, {"failed": 8}, {"failed": 1}, None),
        ({"canary": True, "canary_rows": 10}, {"failed": 9}, {"unknown": 1}, "guard.canary"),
        ({"canary": True, "canary_rows": 10}, {"failed": 8, "succeeded": 1}, {"failed": 5}, None),
        ({"canary": False, "canary_rows": 10}, {"failed": 9}, {"failed": 9}, None),
    ],
)
def test_limits_on_rows(settings, before, then, expected):
    """A run stops when the answers go beyond a limit, and not at it."""
    watching = guards(**settings)
    assert watching.settled(*answered(**before)) is None
    halt = watching.settled(*answered(**then))
    assert reason(halt) == expected
    if halt is not None:
        assert halt.exit_code == ExitCode.STOPPED
        assert halt.message.startswith(REASONS[halt.reason])


def test_a_refusal_that_every_row_would_meet():
    """A stopping code stops at the first answer, whatever the limits allow."""
    halt = guards().settled(*answered(failed=1), stop="api.8892: inactive")
    assert halt is not None
    assert halt.reason == "guard.refusal"
    assert "api.8892" in halt.message


def test_proving_ends_with_the_first_success():
    """The canary sings alone until one row has succeeded; refusals do not end it."""
    watching = guards(canary=True)
    proving = [watching.proving]
    for results, rows in (answered(failed=3, unknown=2), answered(succeeded=1), answered(failed=1)):
        watching.settled(results, rows)
        proving.append(watching.proving)
    assert proving == [True, True, False, False]
    assert not guards(canary=False).proving


def test_rows_that_ran_out_of_attempts():
    """They count as failed, and not as answered by the service."""
    watching = guards(max_failed=10, canary=True, canary_rows=5)
    assert watching.ran_out(10) is None
    assert watching.counters.rows[F] == 10
    assert reason(watching.ran_out(1)) == "guard.max_failed"


def test_throttled_too_long():
    """A wait longer than five minutes stops the run, asked for at once or added up."""
    assert guards().throttled(LONGEST_WAIT_SECONDS, 0) is None
    assert reason(guards().throttled(LONGEST_WAIT_SECONDS + 1, 0)) == "guard.throttled"
    assert reason(guards().throttled(None, LONGEST_WAIT_SECONDS + 1)) == "guard.throttled"


@pytest.mark.parametrize(("lanes", "attempts"), [(1, 2), (2, 2), (3, 3), (8, 8)])
def test_an_outage(lanes, attempts):
    """As many unsent attempts in a row as lanes are at work, but two, are an outage until something comes back."""
    watching = guards()
    outages = []
    for _ in range(attempts + 2):
        watching.not_sent(lanes)
        outages.append(watching.outage)
    assert outages == [False] * (attempts - 1) + [True] * 3
    watching.reached()
    assert not watching.outage


def test_unreachable_for_everybody():
    """Where nobody can be reached at all, that is an outage at once."""
    watching = guards()
    watching.unreachable()
    assert watching.outage
