"""
Causes: why rows ended as they did, counted, with some rows named; read from the ledgers.

Reads ledger columns only, never the input's own, and keeps no more rows than it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bulkissue.outcomes import LEDGER_OF, REASONS, Ledger, Outcome
from bulkissue.state.entries import Settlement
from bulkissue.state.run_folder import Manifest

_NAMED = 5
_PIECE = 100_000

#: Reasons of the open families that deserve words of their own.
_KNOWN_CODES = {
    "api.498": "the token had expired",
    "api.521": "the customer was busy with another action",
    "api.1060": "the request had too many customers; it was cut smaller",
    "api.4001": "the service could not check the credentials for the moment",
    "api.8890": "the service issued nothing and said so in a warning",
    "http.401": "the service refused the credentials",
    "http.429": "the service asked to slow down",
}


@dataclass(slots=True)
class Cause:
    """
    One reason of one outcome.

    Attributes:
        outcome: The rows' outcome.
        reason: The rows' reason.
        rows: How many.
        named: The first of them, by file and number.
        words: What the first of them carries as its message; may hold an identifier.
        identifiers: That row's own, to be masked in `words`.
    """

    outcome: Outcome
    reason: str
    rows: int = 0
    named: list[tuple[str, str]] = field(default_factory=list)
    words: str = ""
    identifiers: tuple[str, ...] = ()


def causes(folder: Path, manifest: Manifest, settlements: Sequence[Settlement]) -> list[Cause]:
    """
    Every reason of every outcome, in the order of outcomes, the most frequent first.

    Args:
        folder: The run's folder, its ledgers written.
        manifest: The run, with their counts.
        settlements: The journal's; of succeeded rows only these have another reason than their proof.
    """
    found: dict[tuple[str, str], Cause] = {}
    for ledger in (Ledger.FAILURE, Ledger.UNKNOWN, Ledger.DUPLICATE):
        if any(manifest.counts.get(outcome) for outcome in Outcome if LEDGER_OF[outcome] is ledger):
            _read(folder / f"{ledger}.csv", found)
    for left in manifest.left_out:
        found.setdefault((left.outcome, left.reason), Cause(Outcome(left.outcome), left.reason)).rows += left.rows
    told = {settlement.text for settlement in settlements}
    for cause in found.values():
        if cause.words in told:  # those are not the service's; the settled rows have a place of their own
            cause.words = ""
    _add_succeeded(found, manifest, settlements)
    order = list(Outcome)
    return sorted(found.values(), key=lambda cause: (order.index(cause.outcome), -cause.rows, cause.reason))


def _read(path: Path, found: dict[tuple[str, str], Cause]) -> None:
    columns = pl.scan_csv(path, infer_schema=False, glob=False).select(
        outcome="_bi_outcome",
        reason="_bi_reason",
        file="_bi_source_file",
        row="_bi_row",
        words="_bi_message",
        identifier="_bi_identifier",
        customer="_bi_customer_id",
    )
    for piece in columns.collect_batches(chunk_size=_PIECE, maintain_order=True):
        grouped = piece.group_by("outcome", "reason", maintain_order=True).agg(
            pl.len(),
            pl.col("file").head(_NAMED),
            pl.col("row").head(_NAMED),
            pl.col("words", "identifier", "customer").first().fill_null(""),
        )
        for outcome, reason, rows, files, numbers, words, *identifiers in grouped.iter_rows():
            cause = found.setdefault(
                (outcome, reason), Cause(Outcome(outcome), reason, words=words, identifiers=tuple(identifiers))
            )
            cause.rows += rows
            cause.named += list(zip(files, numbers, strict=True))[: _NAMED - len(cause.named)]


def _add_succeeded(found: dict[tuple[str, str], Cause], manifest: Manifest, settlements: Sequence[Settlement]) -> None:
    proven = manifest.counts.get(Outcome.SUCCEEDED, 0)
    for settlement in {settlement.row: settlement for settlement in settlements}.values():
        if settlement.outcome is Outcome.SUCCEEDED:
            key = (settlement.outcome.value, settlement.reason)
            found.setdefault(key, Cause(settlement.outcome, settlement.reason)).rows += 1
            proven -= 1
    if proven > 0:
        found["succeeded", "answer.proof"] = Cause(Outcome.SUCCEEDED, "answer.proof", proven)


def meaning(reason: str) -> str:
    """What a reason says, where it is ours to say; empty for the service's own codes."""
    family, _, code = reason.partition(".")
    return (
        REASONS.get(reason)
        or _KNOWN_CODES.get(reason)
        or (f"the service answered HTTP {code}" if family == "http" else "")
    )
