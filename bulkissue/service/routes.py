"""
The service's endpoints: one module each, pure, `request(batch, to_issue)` builds and `read(reply, batch, to_issue)`
reads.

A new endpoint is a new module and a line in `ROUTES`; which action takes it stands in `job.actions`. None of them may
decide what is sent again: they say what an answer states, `verdict` says what it means.
"""

from typing import Protocol

from bulkissue.exchange import Batch, Reply, Request
from bulkissue.job.actions import ACTIONS
from bulkissue.job.model import Job
from bulkissue.service import bulk, cart, coupon, single
from bulkissue.service.answer import PromotionOrSeries, Reading


class Endpoint(Protocol):
    """What each endpoint module offers."""

    #: Identifier types it can carry, as the service spells them.
    SPELLING: dict[str, str]
    #: The sources it knows, or None where it sends none.
    SOURCES: tuple[str, ...] | None
    #: Most rows in one request.
    MAX_ROWS: int
    #: Codes after which the effect may have happened.
    DOUBTFUL: frozenset[str]
    #: Codes that every row of a run would meet alike.
    STOPPING: frozenset[str]
    #: Codes that, said once for several customers, refuse the whole request.
    WHOLE: frozenset[str]

    def request(self, batch: Batch, to_issue: PromotionOrSeries) -> Request:
        """The request that issues `to_issue` to the batch's customers."""
        ...

    def read(self, reply: Reply, batch: Batch, to_issue: PromotionOrSeries) -> Reading:
        """What the answer says of each row."""
        ...


#: By the name that plans and journals use.
ROUTES: dict[str, Endpoint] = {"bulk": bulk, "single": single, "cart": cart, "coupon": coupon}


def promotion_or_series(job: Job, run_id: str) -> PromotionOrSeries:
    """What a run of this job issues; a cart job without a context id uses the run's id."""
    target = job.target
    return PromotionOrSeries(
        effect=ACTIONS[job.job.action].effect,
        program_id=_text(target.program_id),
        promotion_id=_text(target.promotion_id),
        promo_identifier=_text(target.promo_identifier),
        series_id=_text(target.series_id),
        context_id=target.context_id or run_id,
    )


def routes_of(job: Job) -> dict[str, str]:
    """The route of each identifier type that this job can carry."""
    facts = ACTIONS[job.job.action]
    numbered = facts.numbered if isinstance(job.target.promotion_id, int) else None
    return {**facts.routes, **(numbered or {})}


def _text(value: object) -> str:
    return "" if value is None else str(value)
