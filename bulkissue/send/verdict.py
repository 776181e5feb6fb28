"""
The verdict: what one attempt means for each of its rows, and whether it may be sent again.

The whole rule stands here, once, in the order it is applied; the table in docs/verdict.md is its twin. Pure. It must
never call an attempt void, or a row failed, without proof that nothing was issued: where there is
doubt the word is `unknown`.
"""

import msgspec
from msgspec.structs import replace

from bulkissue.exchange import Batch, MaybeSent, NotSent, Reply, Sending
from bulkissue.outcomes import REASONS, Outcome, Results, RowResult
from bulkissue.service.answer import Complaint, PromotionOrSeries, Reading, Statement, as_id
from bulkissue.service.routes import Endpoint

#: The warning that means "not issued" although nothing is called an error.
NOT_ISSUED_WARNING = "8890"
TOO_LARGE = "1060"
_EXPIRED = "498"
_BUSY_CUSTOMER = "521"
_AUTHORIZATION_UNAVAILABLE = "4001"
_LONGEST_WISH_SECONDS = 60.0
_TOO_LARGE_STATUSES = frozenset({413, 431})
#: Codes that speak of one customer: said once for several, they leave open what became of the others.
_ABOUT_ONE_CUSTOMER = frozenset(
    {"521", "701", "708", "709", "715", "721", "8013", "8015", "8045", "8065", "8069", "8890"}
)


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """
    What one attempt means.

    Attributes:
        void: Proven not applied. Its rows have no result and may be sent again.
        reason: Why it is void; empty where it is not.
        results: Of the batch's rows, in their order; None where the attempt is void.
        again: Worth another attempt now.
        counts: Against `max_attempts`.
        renew: The credentials were refused: get a fresh token first.
        throttled: The service asked us to slow down.
        wait: Seconds the service wishes us to wait, where it says.
        split: The batch is too large: cut it and send the parts.
        stop: What every further row would meet alike, in the service's words; empty where there is none.
        status: The HTTP status, 0 where there was no answer.
        request_id: The service's id for the exchange.
        notes: For the operator's log.
    """

    void: bool
    reason: str = ""
    results: Results | None = None
    again: bool = False
    counts: bool = True
    renew: bool = False
    throttled: bool = False
    wait: float | None = None
    split: bool = False
    stop: str = ""
    status: int = 0
    request_id: str = ""
    notes: tuple[str, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether any row of it is unknown."""
        return self.results is not None and self.results.any(Outcome.UNKNOWN)


def judge(sending: Sending, batch: Batch, endpoint: Endpoint, to_issue: PromotionOrSeries) -> Verdict:
    """What became of the batch's rows, given what came back from the wire."""
    if isinstance(sending, NotSent):
        return Verdict(void=True, reason=sending.reason, again=True)
    if isinstance(sending, MaybeSent):
        return Verdict(void=False, results=Results(Outcome.UNKNOWN.value, sending.reason, REASONS[sending.reason]))
    return _weigh(sending, endpoint.read(sending, batch, to_issue), batch, endpoint)


def _weigh(sending: Reply, reading: Reading, batch: Batch, endpoint: Endpoint) -> Verdict:
    if (proven := reading.proven) is not None:
        results = Results(
            Outcome.SUCCEEDED.value, "answer.proof", customer_id=proven.customer_ids, reference=proven.proofs
        )
        return Verdict(void=False, results=results, status=sending.status, request_id=sending.request_id)
    if not any(_proves(statement) for statement in reading.statements):
        void = _void(sending, reading, batch)
        if void is not None:
            return void
    rows = [_result(statement, reading, sending, batch, endpoint) for statement in reading.statements]
    return Verdict(
        void=False,
        results=Results.of(rows),
        stop=_stop(rows, endpoint),
        status=sending.status,
        request_id=sending.request_id,
        notes=reading.notes,
    )


def _void(reply: Reply, reading: Reading, batch: Batch) -> Verdict | None:
    """The answers that prove nothing was applied and invite another attempt."""
    codes = {complaint.code for complaint in reading.whole}
    alone = len(batch.rows) == 1
    said = [
        {complaint.code for complaint in statement.errors} if statement else set() for statement in reading.statements
    ]
    codes |= set.intersection(*said)
    void = Verdict(void=True, status=reply.status, request_id=reply.request_id)
    if reply.status in {401, 498} or _EXPIRED in codes:
        reason = f"api.{_EXPIRED}" if _EXPIRED in codes else f"http.{reply.status}"
        return replace(void, reason=reason, again=True, counts=False, renew=True)
    if reply.status == 429:
        return replace(void, reason="http.429", again=True, counts=False, throttled=True, wait=reply.retry_after)
    if reply.status == 503 and _AUTHORIZATION_UNAVAILABLE in codes:
        reason = f"api.{_AUTHORIZATION_UNAVAILABLE}"
        return replace(void, reason=reason, again=True, wait=_bearable(reply.retry_after))
    if alone and (reply.status == 521 or _BUSY_CUSTOMER in codes):
        # Refused by the service ("multiple actions are running") or by its edge ("origin is down"):
        # not applied under either meaning. With several customers that is not known.
        return replace(void, reason=f"api.{_BUSY_CUSTOMER}", again=True, wait=_bearable(reply.retry_after))
    if reply.status in _TOO_LARGE_STATUSES and not alone and not any(statement for statement in reading.statements):
        # By a gateway before the service, or by the service: it was not read, and a smaller one may be.
        return replace(void, reason=f"http.{reply.status}", counts=False, split=True)
    if TOO_LARGE in codes and not alone and not _in_doubt(reply.status):
        return replace(void, reason=f"api.{TOO_LARGE}", counts=False, split=True)
    return None


def _bearable(asked: float | None) -> float | None:
    # Trying too soon costs one more void attempt; a lane that sleeps for an hour would cost the run.
    return None if asked is None else min(asked, _LONGEST_WISH_SECONDS)


def _result(statement: Statement | None, reading: Reading, reply: Reply, batch: Batch, endpoint: Endpoint) -> RowResult:
    """One row's result, where the attempt as a whole is not void."""
    known = statement or Statement()
    if known.proof:
        if known.foreign:
            return _row(Outcome.UNKNOWN, "answer.foreign", known)
        if not known.errors:
            return RowResult(
                Outcome.SUCCEEDED,
                "answer.proof",
                code=known.warnings[0].code if known.warnings else "",
                message=known.warnings[0].message if known.warnings else "",
                customer_id=as_id(known.customer_id),
                reference=known.proof,
                valid_till=known.valid_till,
            )
        if not _in_doubt(reply.status):
            return _row(Outcome.UNKNOWN, "answer.proof_with_error", known, known.errors[0])
    if _in_doubt(reply.status):
        said = (known.errors or reading.whole or (None,))[0]
        return _row(Outcome.UNKNOWN, f"http.{reply.status}", known, said)
    if statement is not None and not _empty(statement):
        return _stated(statement, endpoint)
    if reading.whole:
        return _refused_whole(reading, known, reply, batch, endpoint)
    if 400 <= reply.status < 500 and (not reading.readable or str(reply.status) in endpoint.STOPPING):
        # No proof, no item, and the service says the request was at fault: it was not carried out.
        if str(reply.status) in endpoint.STOPPING:
            return _row(Outcome.FAILED, f"api.{reply.status}", known)
        return _row(Outcome.FAILED, f"http.{reply.status}", known)
    return _row(Outcome.UNKNOWN, reading.unmatched if statement is None else "answer.no_proof", known)


def _stated(statement: Statement, endpoint: Endpoint) -> RowResult:
    """A row the answer speaks of, without proof."""
    if not statement.errors:
        declined = [warning for warning in statement.warnings if warning.code == NOT_ISSUED_WARNING]
        if declined:
            return _row(Outcome.FAILED, f"api.{NOT_ISSUED_WARNING}", statement, declined[0])
        return _row(Outcome.UNKNOWN, "answer.no_proof", statement, (statement.warnings or (None,))[0])
    return _refusal(statement.errors, statement, endpoint)


def _refused_whole(reading: Reading, known: Statement, reply: Reply, batch: Batch, endpoint: Endpoint) -> RowResult:
    """A row of a request that was answered as a whole."""
    whole = reading.whole
    about_request = all(complaint.code in endpoint.WHOLE for complaint in whole)
    if len(batch.rows) > 1 and not about_request:
        about_one = reading.one_item or any(complaint.code in _ABOUT_ONE_CUSTOMER for complaint in whole)
        if about_one or reply.status < 400 or reply.status == 409:
            # One complaint for several customers, and not one that is known to be about the request: it
            # may be about one of them, with the others issued.
            return _row(Outcome.UNKNOWN, "answer.unmatched", known, whole[0])
    return _refusal(whole, known, endpoint)


def _refusal(errors: tuple[Complaint, ...], known: Statement, endpoint: Endpoint) -> RowResult:
    """A row with errors and no proof: refused, unless a code says the effect may have happened."""
    for complaint in errors:
        if complaint.code in endpoint.DOUBTFUL:
            return _row(Outcome.UNKNOWN, f"api.{complaint.code}", known, complaint)
    first = next((complaint for complaint in errors if complaint.code), None)
    if first is None:
        # Words without a code are no refusal one could hold the service to.
        return _row(Outcome.UNKNOWN, "answer.no_proof", known, errors[0])
    stopping = next((complaint for complaint in errors if complaint.code in endpoint.STOPPING), first)
    return _row(Outcome.FAILED, f"api.{stopping.code}", known, stopping)


def _row(outcome: Outcome, reason: str, known: Statement, said: Complaint | None = None) -> RowResult:
    return RowResult(
        outcome,
        reason,
        message=(said.message if said else "") or REASONS.get(reason) or f"answered {reason}",
        code=said.code if said else "",
        customer_id=as_id(known.customer_id),
        # What an unknown row's answer did carry is evidence; a failed row has no reference.
        reference=known.proof if outcome is Outcome.UNKNOWN else "",
    )


def _stop(rows: list[RowResult], endpoint: Endpoint) -> str:
    for result in rows:
        if result.outcome is Outcome.FAILED and result.reason.removeprefix("api.") in endpoint.STOPPING:
            return f"{result.reason}: {result.message}" if result.message else result.reason
    return ""


def _in_doubt(status: int) -> bool:
    """Statuses after which the effect may have happened, whatever the body says."""
    return status < 200 or 300 <= status < 400 or status in {408, 425} or status >= 500


def _proves(statement: Statement | None) -> bool:
    return statement is not None and bool(statement.proof)


def _empty(statement: Statement) -> bool:
    return not (statement.proof or statement.errors or statement.warnings)
