"""
Diff: how two runs' rows differ, customer by customer.

Reads only, takes no lock. Customers are the same by their compare key, under the identifier they were sent by. It must
never hold a row against another customer's.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bulkissue.errors import StateRefused
from bulkissue.files import room_for
from bulkissue.outcomes import Outcome
from bulkissue.results import derivation, tables
from bulkissue.state import run_folder
from bulkissue.state.run_folder import Manifest
from bulkissue.state.store import look_at_journal

_KEY = ("identifier_type", "compare_key")
_TOLD = ("source_file", "row", "outcome", "reason", "reference")
_KINDS = {"row": pl.UInt64()}
#: A line for each customer who differs: how the two runs have them; null where one has them not.
SCHEMA = pl.Schema(
    {
        "identifier_type": pl.String(),
        "identifier": pl.String(),
        **{f"{name}_{side}": _KINDS.get(name, pl.String()) for side in (1, 2) for name in _TOLD},
    }
)


@dataclass(frozen=True, slots=True)
class Change:
    """So many customers ended so in the first run, and so in the second; None where a run has them not."""

    first: tuple[str, str] | None
    second: tuple[str, str] | None
    customers: int


@dataclass(frozen=True, slots=True)
class Difference:
    """
    How two runs differ.

    Attributes:
        runs: The two manifests.
        same: Customers who ended alike in both, by outcome and reason.
        changes: The others, most frequent first.
        repeats: Of each run, rows of customers who stand in another of its rows that tells more.
        nameless: Of each run, rows that name nobody, and so can be held against none.
        parts: Parquet files of `SCHEMA`; they last as long as the block in which this is given.
    """

    runs: tuple[Manifest, Manifest]
    same: int
    changes: list[Change]
    repeats: tuple[int, int]
    nameless: tuple[int, int]
    parts: tuple[Path, ...]

    @property
    def differing(self) -> int:
        """Customers who did not end alike."""
        return sum(change.customers for change in self.changes)


@contextmanager
def diff(first: Path, second: Path, *, beside: Path | None = None) -> Iterator[Difference]:
    """
    How two runs' rows differ.

    Args:
        first: A run's folder.
        second: Another's.
        beside: A folder for what is collected, as it names customers; None for the system's own.

    Raises:
        StateRefused: A run's folder or journal cannot be trusted.
        ConservationBroken: A run's plan and journal contradict each other.
    """
    with tempfile.TemporaryDirectory(prefix=".bulkissue-diff-", dir=beside) as scratch:
        sides = [_side(folder, Path(scratch) / f"{number}.parquet") for number, folder in enumerate((first, second))]
        one, other = (
            pl.scan_parquet(side.path).rename({name: f"{name}_{number}" for name in _TOLD})
            for number, side in enumerate(sides, 1)
        )
        joined = one.join(other, on=_KEY, how="full", coalesce=True, maintain_order="left_right").with_columns(
            identifier=pl.coalesce("identifier", "identifier_right")
        )
        alike = pl.all_horizontal(pl.col(f"{name}_1").eq_missing(pl.col(f"{name}_2")) for name in ("outcome", "reason"))
        whole = joined.with_columns(alike=alike).collect()
        part = Path(scratch) / "differing.parquet"
        with room_for(part):
            whole.filter(~pl.col("alike")).select(SCHEMA.names()).write_parquet(part)
        ends = [f"{name}_{side}" for side in (1, 2) for name in ("outcome", "reason")]
        counted = (
            whole.filter(~pl.col("alike"))
            .group_by(ends)
            .len()
            .sort(pl.col("len"), *ends, descending=[True, *[False] * 4])
        )
        yield Difference(
            runs=(sides[0].manifest, sides[1].manifest),
            same=int(whole["alike"].sum()),
            changes=[
                Change(_ended(*row[:2]), _ended(*row[2:4]), row[4]) for row in counted.select(*ends, "len").rows()
            ],
            repeats=(sides[0].repeats, sides[1].repeats),
            nameless=(sides[0].nameless, sides[1].nameless),
            parts=(part,),
        )


def write(found: Difference, out: Path) -> None:
    """Write the customers who differ as CSV, mode 0600."""
    tables.write(out, found.parts, SCHEMA, "csv", beside={})


@dataclass(frozen=True, slots=True)
class _Side:
    """A run, its customers on the disk, each once, and its rows that are none of them."""

    manifest: Manifest
    path: Path
    repeats: int
    nameless: int


def _side(folder: Path, path: Path) -> _Side:
    manifest = run_folder.read_manifest(folder)
    run_folder.refuse_changed(folder, manifest)
    stop = manifest.stop
    ended = stop is None and manifest.state == "completed"
    ending = derivation.Ending(completed=True) if ended else derivation.Ending(completed=False)
    if stop is not None:
        ending = derivation.Ending(False, stop.reason, stop.message)
    if manifest.state == "planned" and not (folder / "journal.db").exists():
        raise StateRefused(f"run {manifest.run_id} ended before it sent anything: it has no outcomes")
    journal = look_at_journal(folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    try:
        with journal.standing_still():
            rows = [_told(piece) for piece in derivation.pieces(derivation.Run.of(folder, manifest), journal, ending)]
    finally:
        journal.leave()
    empty = pl.DataFrame(schema={"identifier": pl.String, **dict.fromkeys((*_KEY, *_TOLD), pl.String), **_KINDS})
    named = pl.concat([empty, *rows], how="diagonal_relaxed").filter(pl.col("compare_key").is_not_null())
    # Of several rows of a customer the one counts that was to be sent; its duplicates only say that they are some.
    customers = named.sort(pl.col("outcome") == Outcome.DUPLICATE.value, maintain_order=True).unique(
        _KEY, keep="first", maintain_order=True
    )
    with room_for(path):
        customers.write_parquet(path)
    return _Side(manifest, path, named.height - customers.height, manifest.rows - named.height)


def _told(piece: derivation.Piece) -> pl.DataFrame:
    shared = piece.shared.select(
        pl.col("_bi_identifier_type").alias("identifier_type"),
        *(pl.col(f"_bi_{name}").cast(pl.String).alias(name) for name in ("source_file", "outcome", "reason")),
    )
    own = piece.own.select(
        pl.coalesce("_bi_compare_key", "_bi_identifier").alias("compare_key"),
        pl.col("_bi_identifier").alias("identifier"),
        pl.col("_bi_row").cast(pl.UInt64).alias("row"),
        pl.col("_bi_reference").alias("reference"),
    )
    return own.hstack(shared.select(pl.all().gather(piece.line)))


def _ended(outcome: str | None, reason: str | None) -> tuple[str, str] | None:
    return None if outcome is None else (outcome, reason or "")
