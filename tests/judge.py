"""
The judge: holds all ledgers of all runs against the stand-in service's own books.

It knows nothing but the run folders' public files and what the service says it did. It must never take a
program's word for an effect.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from conftest import read_ledgers

from bulkissue.outcomes import Outcome

#: The stand-in and the program read different clocks of one machine.
_CLOCKS = timedelta(milliseconds=100)
_NOT_ISSUED = {Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED}

Row = dict[str, str]


@dataclass
class Judgement:
    """
    What the books prove of some runs.

    Attributes:
        rows: Every row of every run, by run and then by file and number.
        unknown: Rows that are unknown, in all runs.
        issued: Customers who were issued, by identifier type and compare key.
        in_doubt: Customers who stand as unknown in some run.
    """

    rows: dict[str, dict[tuple[str, int], Row]] = field(default_factory=dict)
    unknown: int = 0
    issued: set[tuple[str, str]] = field(default_factory=set)
    in_doubt: set[tuple[str, str]] = field(default_factory=set)

    def customers(self) -> set[tuple[str, str]]:
        """Everybody who stands in a ledger under a usable identifier."""
        return {customer(row) for rows in self.rows.values() for row in rows.values() if row["_bi_identifier"]}


def customer(row: Row) -> tuple[str, str]:
    """Whom a ledger row, or an effect, is about."""
    prefix = "_bi_" if "_bi_row" in row else ""
    return row[f"{prefix}identifier_type"], row[f"{prefix}identifier"].casefold()


def settled_runs(runs_dir: Path) -> list[Path]:
    """The runs that have written ledgers."""
    manifests = [(path.parent, msgspec.json.decode(path.read_bytes())) for path in sorted(runs_dir.glob("*/run.json"))]
    return [folder for folder, manifest in manifests if manifest["exit_code"] is not None]


def hold_against_books(runs: Sequence[Path], issued: Sequence[dict[str, Any]], target: dict[str, Any]) -> Judgement:
    """
    Prove that the runs' ledgers tell the truth, and that nobody was issued twice.

    Args:
        runs: All settled runs of one target.
        issued: The service's books.
        target: `effect`, and as much of the books' `target` as tells it from others.
    """
    effect = target["effect"]
    effects = [
        one
        for one in issued
        if one["effect"] == effect and all(one["target"].get(k) == v for k, v in target.items() if k != "effect")
    ]
    twice = [who for who, times in Counter(one["customer_id"] for one in effects).items() if times > 1]
    assert not twice, f"{len(twice)} customers were issued twice"

    found = Judgement(issued={customer(one) for one in effects})
    by_reference = {one["reference"]: one for one in effects}
    claimed: Counter[str] = Counter()
    maybe: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for run in runs:
        rows = found.rows[run.name] = read_ledgers(run)
        read = pl.scan_parquet(run / "input.parquet").select("_bi_source_file", "_bi_row").collect().rows()
        assert sorted(read) == sorted(rows), f"{run.name}: rows were lost, or were made up"
        for key, row in rows.items():
            who = customer(row)
            if row["_bi_reason"] == "resolve.issued":
                maybe[who].append(row)  # a person has seen it, not the program
            elif row["_bi_outcome"] == Outcome.SUCCEEDED:
                claimed[row["_bi_reference"]] += 1
                assert row["_bi_reference"] in by_reference, f"{run.name} {key} succeeded without an effect"
                assert customer(by_reference[row["_bi_reference"]]) == who, f"{run.name} {key} has another's reference"
            elif row["_bi_outcome"] == Outcome.UNKNOWN:
                found.unknown += 1
                found.in_doubt.add(who)
                maybe[who].append(row)
            elif row["_bi_outcome"] in _NOT_ISSUED:
                assert not row["_bi_reference"], f"{run.name} {key} was not issued and has a reference: {row}"
    assert not [reference for reference, times in claimed.items() if times > 1], "two rows claim one reference"
    for one in effects:
        if one["reference"] not in claimed:
            mine = customer(one)
            said = [
                row["_bi_outcome"] for rows in found.rows.values() for row in rows.values() if customer(row) == mine
            ]
            assert any(_may_be_of(row, one) for row in maybe[mine]), f"no ledger knows of {one}; they say {said}"
    return found


def _may_be_of(row: Row, effect: dict[str, Any]) -> bool:
    """Whether the effect is of an attempt on this unknown row, by when it was sent."""
    return datetime.fromisoformat(row["_bi_sent_at"]) - _CLOCKS <= datetime.fromisoformat(effect["at"])
