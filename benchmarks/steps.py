"""
Single steps, each in a process of its own: what polars alone does in place of a phase, and the ledgers alone.

Usage: steps.py query IN.csv OUT.parquet; steps.py copy IN.parquet OUT.csv; steps.py ledgers RUN_FOLDER OUT_FOLDER;
steps.py remember MILLIONS TARGET_FOLDER; steps.py semi KEYS.parquet TARGET_FOLDER

Prints, as JSON, the seconds of processor and of wall time of the step itself, without the imports.
"""

import json
import resource
import sys
import time
from pathlib import Path

import polars as pl

from bulkissue.results import derivation, ledgers
from bulkissue.state import folder, history, run_folder
from bulkissue.state.journal import Journal


def query(source: Path, out: Path) -> None:
    """
    What a plan comes down to, without all that makes it one: of each type and value the first, sorted by type.

    Keeping the order is what a plan has to do; it is also cheaper, by a third, than not asking for it.
    """
    rows = pl.scan_csv(source, infer_schema=False) if source.suffix == ".csv" else pl.scan_parquet(source)
    rows.unique(["type", "value"], keep="first", maintain_order=True).sort("type", maintain_order=True).sink_parquet(
        out
    )


def copy(source: Path, out: Path) -> None:
    """Parquet to CSV."""
    pl.scan_parquet(source).sink_csv(out)


def remember(rows: Path, target: Path) -> None:
    """
    A state folder that remembers so many identifiers, of customers nobody asks for; a history file for each million.

    Args:
        rows: How many, in millions.
        target: The target's folder, `STATE/ENVIRONMENT/EFFECT/promotion=ID`.
    """
    state_dir = target.parents[2]
    folder.open_state(state_dir, state_dir, init=True)
    for number in range(int(str(rows))):
        key = pl.int_range(number * 1_000_000, (number + 1) * 1_000_000, dtype=pl.UInt64).hash(7)
        told = {"identifier_type": "mobile", "outcome": "succeeded", "run": f"r{number:04}", "country_code": "91"}
        lines = pl.select(key=key, source_row=pl.int_range(1_000_000, dtype=pl.UInt64), reference=key.cast(pl.String))
        lines = lines.with_columns(pl.lit(value).alias(name) for name, value in told.items())
        missing = [pl.lit(None).alias(name) for name in history.HISTORY_SCHEMA if name not in lines.columns]
        whole = lines.with_columns(missing).select(
            pl.col(name).cast(dtype) for name, dtype in history.HISTORY_SCHEMA.items()
        )
        (target / "history").mkdir(parents=True, exist_ok=True)
        history.write(target / "history" / f"r{number:04}.parquet", whole.lazy())


def semi(keys: Path, lines: Path) -> None:
    """What asking a history comes down to: which of a million numbers are among those of its files."""
    asked = pl.scan_parquet(keys)
    pl.scan_parquet(lines / "history" / "*.parquet").select("key").join(asked, on="key", how="semi").collect(
        engine="streaming"
    )


class _Clock:
    """Processor and wall seconds since it was made."""

    def __init__(self) -> None:
        self._processor, self._wall = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, time.monotonic()

    def tell(self) -> None:
        """Print what has gone by."""
        processor, wall = self._now()
        sys.stdout.write(json.dumps({"processor": processor - self._processor, "wall": wall - self._wall}) + "\n")


def main() -> None:
    """Execute one step."""
    what, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what != "ledgers":
        clock = _Clock()
        {"query": query, "copy": copy, "remember": remember, "semi": semi}[what](source, out)
        clock.tell()
        return
    manifest = run_folder.read_manifest(source)
    run = derivation.Run.of(source, manifest)
    plan_sha256 = manifest.digests["plan.parquet"]
    # Opening it proves its integrity. A run does that before it sends, so it is no part of the step.
    journal = Journal.look(source / "journal.db", run_id=manifest.run_id, plan_sha256=plan_sha256)
    clock = _Clock()
    books = ledgers.write(run, journal, derivation.Ending(completed=True), ["csv"], out)
    clock.tell()
    journal.leave()
    if books.counts() != manifest.counts:
        sys.exit("the books differ from the run's own")


if __name__ == "__main__":
    main()
