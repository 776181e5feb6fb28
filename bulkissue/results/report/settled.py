"""
Settled rows: what was found out about unknown rows afterwards, by whom and from what.

Reads the journal's settlements, and of the input only the named rows. The last word about a row counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bulkissue.outcomes import Outcome
from bulkissue.state.entries import Settlement

_MOST_WORDS = 50
_NAMED = 5
#: Of so many rows the identifiers are known, and masked wherever they stand in what was said.
_MASKED = 200


@dataclass(slots=True)
class Word:
    """
    The same finding about some rows, by the same person or command, on the same evidence.

    Attributes:
        outcome: `succeeded`, `failed`, or `unknown` where the row stays open.
        by: Who says so.
        evidence: In their words; may hold an identifier.
        at: When it was last said; epoch milliseconds.
        places: The rows' places in the input.
        named: The first of them, by file and number.
        identifiers: Those of the rows.
    """

    outcome: Outcome
    by: str
    evidence: str
    at: int
    places: list[int] = field(default_factory=list)
    named: list[tuple[str, int]] = field(default_factory=list)
    identifiers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Settled:
    """
    All that was found out.

    Attributes:
        rows: How many rows, by who says so and the outcome.
        words: The first of what was said, in the order of rows.
        untold: Rows of which `words` has nothing.
        replaced: Earlier words that a later one replaced.
    """

    rows: Counter[tuple[str, Outcome]]
    words: Sequence[Word]
    untold: int
    replaced: int

    def count(self, outcome: Outcome) -> int:
        """How many rows were found to be this."""
        return sum(rows for (_, found), rows in self.rows.items() if found is outcome)


def settled(folder: Path, settlements: Sequence[Settlement]) -> Settled:
    """
    What the settlements come to.

    Args:
        folder: The run's folder.
        settlements: The journal's, in order.
    """
    last = [word for _, word in sorted({word.row: word for word in settlements}.items())]
    words: dict[tuple[Outcome, str, str], Word] = {}
    for found in last:
        word = words.setdefault(
            (found.outcome, found.settled_by, found.evidence),
            Word(found.outcome, found.settled_by, found.evidence, found.at),
        )
        word.at = max(word.at, found.at)
        word.places.append(found.row)
    shown = list(words.values())[:_MOST_WORDS]
    known = _rows(folder, [place for word in shown for place in word.places[:_MASKED]])
    for word in shown:
        rows = [known[place] for place in word.places[:_MASKED] if place in known]
        word.named = [(file, number) for file, number, _ in rows[:_NAMED]]
        word.identifiers = [identifier for _, _, identifier in rows if identifier]
    return Settled(
        rows=Counter((found.settled_by, found.outcome) for found in last),
        words=shown,
        untold=len(last) - sum(len(word.places) for word in shown),
        replaced=len(settlements) - len(last),
    )


def _rows(folder: Path, places: list[int]) -> dict[int, tuple[str, int, str | None]]:
    """File, number and identifier of the rows at some places of the input."""
    if not places:
        return {}
    chosen = pl.DataFrame({"row": places}, schema={"row": pl.UInt32}).lazy()
    names = (
        pl.scan_parquet(folder / "input.parquet", glob=False).select("_bi_source_file", "_bi_row").with_row_index("row")
    )
    identifiers = pl.scan_parquet(folder / "plan.parquet", glob=False).select("row", "identifier")
    named, identified = pl.collect_all(
        [rows.join(chosen, on="row", how="semi") for rows in (names, identifiers)], engine="streaming"
    )
    found = named.join(identified, on="row", how="left").select("row", "_bi_source_file", "_bi_row", "identifier")
    return {place: (file, number, identifier) for place, file, number, identifier in found.iter_rows()}
