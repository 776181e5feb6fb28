"""
The closed list of outcomes a row can end in, and the reasons for each.

Everything that counts rows imports its words from here. It must never gain an outcome without a
changelog entry: ledgers and users' scripts name them.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Self

import msgspec


class Outcome(StrEnum):
    """How a row ended. Each row has exactly one."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    NOT_ATTEMPTED = "not_attempted"
    UNKNOWN = "unknown"
    DUPLICATE = "duplicate"
    ALREADY_ISSUED = "already_issued"


class Ledger(StrEnum):
    """The four ledgers of a run; the value is the file's stem."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"
    DUPLICATE = "duplicate"


LEDGER_OF: dict[Outcome, Ledger] = {
    Outcome.SUCCEEDED: Ledger.SUCCESS,
    Outcome.FAILED: Ledger.FAILURE,
    Outcome.REJECTED: Ledger.FAILURE,
    Outcome.NOT_ATTEMPTED: Ledger.FAILURE,
    Outcome.UNKNOWN: Ledger.UNKNOWN,
    Outcome.DUPLICATE: Ledger.DUPLICATE,
    Outcome.ALREADY_ISSUED: Ledger.DUPLICATE,
}

#: The columns bulkissue puts behind the input's own, in this order. Public contract.
LEDGER_COLUMNS: tuple[str, ...] = (
    "_bi_run",
    "_bi_target",
    "_bi_source_file",
    "_bi_row",
    "_bi_outcome",
    "_bi_reason",
    "_bi_message",
    "_bi_identifier_type",
    "_bi_identifier",
    "_bi_batch",
    "_bi_attempts",
    "_bi_http_status",
    "_bi_code",
    "_bi_customer_id",
    "_bi_reference",
    "_bi_valid_till",
    "_bi_request_id",
    "_bi_sent_at",
    "_bi_answered_at",
)

#: How well an identifier type identifies, best first; fixed, whatever a job prefers to send by.
STRENGTH = ("id", "external_id", "mobile", "email")
#: Columns that keep the compare keys of the identifiers a row was not sent by; in plans and in history.
KNOWN_BY = {kind: f"known_{kind}" for kind in STRENGTH}

#: Identifier types, in the order groups are sent.
IDENTIFIER_TYPES: tuple[str, ...] = ("id", "mobile", "email", "external_id")

#: Every reason but the open families `api.<code>` and `http.<status>`, with what it says to a user.
REASONS: dict[str, str] = {
    "answer.proof": "the answer carries this row's own proof of issue",
    "answer.proof_with_error": "the answer carries both a proof and an error for this row",
    "answer.no_proof": "the answer has neither a proof nor an error for this row",
    "answer.foreign": "the answer's proof names another promotion, program or series than ours",
    "answer.missing": "the answer does not mention this customer",
    "answer.unmatched": "the answer's items cannot be matched to the rows with certainty",
    "answer.unreadable": "the answer says it worked but cannot be read",
    "crash.no_answer": "the run died after it noted the send and before it noted an answer",
    "dedupe.same_identifier": "the same customer stands earlier in this input",
    "dedupe.shared_identifier": "the identifier stands beside those of several customers, and so names nobody",
    "dedupe.first_failed": "the row that was sent for this customer, under another identifier, is proven not issued",
    "dedupe.same_customer": "another identifier of the same customer stands earlier in this input",
    "dedupe.conflict": "the same customer stands here with another source or account; all of them are rejected",
    "dedupe.issued": "an earlier run issued this target to this customer",
    "dedupe.unknown": "an earlier run may have issued this target to this customer; settle that run first",
    "guard.canary": "stopped: the first rows were answered without one success",
    "guard.credentials": "stopped: the service refused the credentials",
    "guard.limit": "left out by --limit",
    "guard.max_failed": "stopped: more failed rows than [guards] max_failed",
    "guard.max_failed_ratio": "stopped: a larger share of failed rows than [guards] max_failed_ratio",
    "guard.max_unknown": "stopped: more unknown rows than [guards] max_unknown",
    "guard.outage": "stopped: the service could not be reached",
    "guard.refusal": "stopped: the service gave a refusal that every row would meet alike",
    "guard.signal": "stopped by a signal",
    "guard.storage": "stopped: the journal could not be written",
    "guard.throttled": "stopped: the service asked to wait too long, or without end",
    "guard.unfinished": "the run ended before this row's turn",
    "net.connect_failed": "not sent: the connection was refused or could not be made",
    "net.connect_timeout": "not sent: no connection within connect_timeout_seconds",
    "net.pool_timeout": "not sent: no free connection",
    "net.cancelled": "sent, and stopped before the answer",
    "net.protocol_error": "sent, and what came back is not HTTP, or ended too early",
    "net.read_error": "sent, and the connection broke before the answer was whole",
    "net.read_timeout": "sent, and no whole answer within read_timeout_seconds",
    "net.unexpected": "something unforeseen happened while sending",
    "net.write_error": "the connection broke while sending",
    "reconcile.issued": "reading back found exactly this issue",
    "reconcile.not_issued": "reading back found that nothing was issued",
    "resolve.issued": "a person settled this row as issued, with evidence",
    "resolve.not_issued": "a person settled this row as not issued, with evidence",
    "validate.email_display_name": "there is a name beside the email; leave the address alone in the cell",
    "validate.email_length": "the email is longer than 254 characters",
    "validate.email_syntax": "this is not an email address",
    "validate.external_id_characters": "the external id has an invisible character, or a blank that is no space",
    "validate.external_id_length": "the external id is longer than 50 characters",
    "validate.external_id_scientific": "a spreadsheet turned this external id into a rounded number",
    "validate.external_id_decimal": "the external id ends in .0, as numbers do that a program took for measures",
    "validate.external_id_date": "the external id is a date or time",
    "validate.external_id_error": "the external id is an error of a spreadsheet",
    "validate.external_id_no_customer": "a total, a number of rows, or the name of the column again, and no customer",
    "validate.external_id_pattern": "the external id does not match [identifiers.external_id] pattern",
    "validate.id_not_integer": "the customer id is not a whole number",
    "validate.id_out_of_range": "the customer id is not between 1 and 9223372036854775807",
    "validate.id_scientific": "a spreadsheet turned this customer id into a rounded number",
    "validate.identifier_missing": "the row has no identifier",
    "validate.identifier_type_missing": "the row does not say its identifier's type",
    "validate.identifier_type_unknown": "the identifier type is none of id, mobile, email, external_id",
    "validate.misquoted_line": "the line's quotes are not closed where its fields end",
    "validate.mobile_ambiguous": "the same number stands here with and without a country code; set country_code",
    "validate.mobile_characters": "the mobile has characters that no phone number has",
    "validate.mobile_date": "the mobile is a date or time",
    "validate.mobile_extension": "there is an extension behind the mobile; a mobile has none",
    "validate.mobile_impossible": "no mobile of its country has this many digits",
    "validate.mobile_leading_zero": "the mobile begins with 0; write it with its country code, or set "
    "[identifiers.mobile] region",
    "validate.mobile_region": "neither a number of the region nor one with its country code",
    "validate.mobile_thousands": "the mobile has thousands separators: a program took it for a measure",
    "validate.mobile_length": "the mobile has fewer than 9 or more than 15 digits, or not the number its country has",
    "validate.mobile_scientific": "a spreadsheet turned this mobile into a rounded number",
    "validate.mobile_several": "the cell holds more digits behind a whole number; write one number in a cell",
    "validate.ragged_line": "the line has more or fewer fields than the header",
    "validate.route": "this action cannot carry this identifier type",
    "validate.source_missing": "the row has no source and [identifiers] default_source is not set",
    "validate.source_unknown": "the source is not one this route knows",
    "validate.unreadable_value": "the cell's value cannot be turned into text exactly",
}


class RowResult(msgspec.Struct, frozen=True, gc=False):
    """
    What one answer says of one row.

    Attributes:
        outcome: `succeeded`, `failed` or `unknown`.
        reason: A code of `REASONS`, or `api.<code>`, or `http.<status>`.
        message: The service's own words or ours, without the identifier; may be empty.
        code: The service's error or warning code, as text.
        customer_id: The customer's own id, where the answer tells it.
        reference: The proof: earned id, issual id, coupon code, cart issue id.
        valid_till: As the service wrote it.
    """

    outcome: Outcome
    reason: str
    message: str = ""
    code: str = ""
    customer_id: str = ""
    reference: str = ""
    valid_till: str = ""


#: The fields of a row's result, in the order every table made from them has.
RESULT_FIELDS: tuple[str, ...] = RowResult.__struct_fields__


class Results(msgspec.Struct, frozen=True, gc=False):
    """
    What one answer says of its rows, field by field: a value that holds for all of them, or a list with one for each.

    Most answers say the same of all their rows but for a proof, so this is what verdicts, journal and ledgers pass on.
    """

    outcome: str | list[str]
    reason: str | list[str]
    message: str | list[str] = ""
    code: str | list[str] = ""
    customer_id: str | list[str] = ""
    reference: str | list[str] = ""
    valid_till: str | list[str] = ""

    @classmethod
    def of(cls, rows: Sequence[RowResult]) -> Self:
        """The results of at least one row."""
        return cls(*map(_alike, zip(*map(msgspec.structs.astuple, rows), strict=True)))

    def any(self, outcome: Outcome) -> bool:
        """Whether any row ended so."""
        return outcome in ([self.outcome] if isinstance(self.outcome, str) else self.outcome)

    def reasons(self) -> list[str]:
        """Every reason once, sorted."""
        return [self.reason] if isinstance(self.reason, str) else sorted(set(self.reason))


def _alike(values: tuple[str, ...]) -> str | list[str]:
    return values[0] if values.count(values[0]) == len(values) else list(values)
