"""
A settled run without some of its customers: every file of the run folder anew, in a way that a kill cannot halve.

The new files are made in a folder of their own beside the old ones, and take their places once they are whole; a
kill in between is made good by `finish`. Ledgers and report are derived from the new plan and journal, so that the
run's books can be proven as before. It must never touch a run that is not settled, nor drop what prevents a second
issue: the keyed digests of those who go stay in the run folder.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from bulkissue.failpoint import reached
from bulkissue.files import make_folder, replacing_path, sha256, sync_folder, write_whole
from bulkissue.outcomes import KNOWN_BY
from bulkissue.results import derivation, ledgers, report
from bulkissue.results.report import campaign
from bulkissue.state import run_folder
from bulkissue.state.history import REMEMBERED, Digests, write_remembered
from bulkissue.state.journal_copy import write_without
from bulkissue.state.run_folder import Manifest, Removal
from bulkissue.state.store import look_at_journal

_NEW = ".new"
_WHOLE = ".whole"
#: What of a plan's row tells who its customer is.
_WHO = ("identifier", "compare_key", "account_id", *KNOWN_BY.values())


@dataclass(frozen=True, slots=True)
class Gone:
    """
    Whose personal data goes.

    Attributes:
        rows: Places in the input, from 0; None for all.
        known: By row what its customer is known by.
        cells: Places of rows that stay, in whose cells something of a customer who goes stands: these cells go.
        by: `purge` or `erase`.
        at: When, ISO 8601 in UTC.
    """

    rows: frozenset[int] | None
    known: Mapping[int, Collection[str]]
    cells: Mapping[str, Collection[int]]
    by: Literal["purge", "erase"]
    at: str


def redact(folder: Path, manifest: Manifest, gone: Gone, remembered: pl.LazyFrame, digests: Digests) -> Manifest:
    """
    Remove customers from a run's folder.

    Args:
        folder: The run's folder, its target and itself locked.
        manifest: The run.
        gone: Who.
        remembered: The run's lines of history, `HISTORY_SCHEMA`.
        digests: Of the state folder.

    Returns:
        The run as it now stands.

    Raises:
        BulkissueError: The run's books cannot be read or written; it stays as it was.
    """
    new = folder / _NEW
    if new.exists():
        shutil.rmtree(new)
    make_folder(new)
    _write_tables(folder, new, manifest, gone)
    kept = _of_those_who_go(folder, gone, remembered)
    write_remembered(new / REMEMBERED, pl.concat([kept, *_remembered_before(folder)]), digests)
    fingerprint = sha256(new / "plan.parquet")
    write_without(folder / "journal.db", new / "journal.db", gone.rows, gone.known, fingerprint)
    reached("redaction.copied")
    changed = {**manifest.digests, "input.parquet": sha256(new / "input.parquet"), "plan.parquet": fingerprint}
    manifest = msgspec.structs.replace(manifest, digests=changed)
    manifest = _write_books(folder, new, manifest, gone)
    shutil.copyfile(folder / "job.toml", new / "job.toml")
    run_folder.write_manifest(new, manifest)
    sync_folder(new)
    reached("redaction.made")
    write_whole(new / _WHOLE, b"")
    reached("redaction.whole")
    finish(folder)
    return manifest


def finish(folder: Path) -> None:
    """Bring a removal that was begun to its end: where its files are whole they take their places, else they go."""
    new = folder / _NEW
    if not new.exists():
        return
    if (new / _WHOLE).exists():
        for path in sorted(new.iterdir()):
            if path.name != _WHOLE:
                path.replace(folder / path.name)
                reached("redaction.moved")
        for leftover in ("journal.db-wal", "journal.db-shm"):
            (folder / leftover).unlink(missing_ok=True)
        sync_folder(folder)
    shutil.rmtree(new)
    sync_folder(folder)


def is_halfway(folder: Path) -> bool:
    """Whether a removal was begun and killed."""
    return (folder / _NEW).exists()


def _write_tables(folder: Path, new: Path, manifest: Manifest, gone: Gone) -> None:
    place = pl.int_range(pl.len(), dtype=pl.UInt32)
    everybody = pl.lit(value=True)
    mine = everybody if gone.rows is None else place.is_in(pl.Series(sorted(gone.rows), dtype=pl.UInt32).implode())
    cells = []
    for name in manifest.columns:
        also = pl.Series(sorted(gone.cells.get(name, ())), dtype=pl.UInt32)
        leaves = mine | place.is_in(also.implode()) if also.len() else mine
        cells.append(pl.when(~leaves).then(pl.col(name)).alias(name))
    with replacing_path(new / "input.parquet") as path:
        _written(pl.scan_parquet(folder / "input.parquet", glob=False).with_columns(cells), path)
    who = [pl.when(~mine).then(pl.col(name)).alias(name) for name in _WHO]
    with replacing_path(new / "plan.parquet") as path:
        _written(pl.scan_parquet(folder / "plan.parquet", glob=False).with_columns(who), path)


def _written(rows: pl.LazyFrame, path: Path) -> None:
    rows.collect(engine="streaming").write_parquet(path, compression="lz4", statistics=False, row_group_size=1 << 17)


def _of_those_who_go(folder: Path, gone: Gone, remembered: pl.LazyFrame) -> pl.LazyFrame:
    if gone.rows is None:
        return remembered
    places = pl.scan_parquet(folder / "input.parquet", glob=False).select("_bi_source_file", "_bi_row")
    mine = places.with_row_index("place").filter(pl.col("place").is_in(sorted(gone.rows)))
    on = {"left_on": ["source_file", "source_row"], "right_on": ["_bi_source_file", "_bi_row"]}
    return remembered.join(mine, how="semi", **on)  # type: ignore[arg-type]


def _remembered_before(folder: Path) -> list[pl.LazyFrame]:
    path = folder / REMEMBERED
    return [pl.scan_parquet(path, glob=False)] if path.exists() else []


def _write_books(folder: Path, new: Path, manifest: Manifest, gone: Gone) -> Manifest:
    """The ledgers and the report from the new plan and journal."""
    run, stop = derivation.Run.of(new, manifest), manifest.stop
    ending = derivation.Ending(completed=True) if stop is None else derivation.Ending(False, stop.reason, stop.message)
    formats = sorted({Path(name).suffix[1:] for name in manifest.ledgers})
    journal = look_at_journal(new, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    try:
        books = ledgers.write(run, journal, ending, formats, new)
        for part in books.history:
            part.unlink()
        before = {name: str(ledger["sha256"]) for name, ledger in manifest.ledgers.items()}
        removal = Removal(
            gone.by,
            gone.at,
            manifest.rows if gone.rows is None else len(gone.rows),
            {**before, **{name: sha256(folder / name) for name in ("input.parquet", "plan.parquet")}},
        )
        manifest = msgspec.structs.replace(manifest, ledgers=books.digests, removals=(*manifest.removals, removal))
        kin = campaign.find(folder, manifest)
        report.write(new, manifest, journal, kin)
    finally:
        journal.leave()
    return manifest
