"""
Erase: one customer goes from every run folder, by request; a receipt says from where.

It must never erase whom the service has yet to be asked about, nor forget that somebody was issued: the keyed digests
stay, by which nobody is issued twice. No receipt, and no message, may say who it was.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import polars as pl

from bulkissue.commands import rehearsal
from bulkissue.commands.customer_history import keys_of
from bulkissue.commands.purge import folders_of
from bulkissue.commands.reopening import halt_of
from bulkissue.errors import StateRefused, UsageRefused
from bulkissue.failpoint import reached
from bulkissue.files import make_folder, sha256, write_whole
from bulkissue.job.loading import LoadedJob
from bulkissue.job.target import parse
from bulkissue.outcomes import KNOWN_BY, Outcome
from bulkissue.plan.rows import row_names
from bulkissue.results import derivation, redaction
from bulkissue.results.redaction import Gone
from bulkissue.settle.customers import forget
from bulkissue.state import erasure, run_folder
from bulkissue.state.erasure import Key, PlannedRun
from bulkissue.state.run_folder import Manifest, new_run_id
from bulkissue.state.store import look_at_journal, store_at

#: Shorter texts stand in too many cells by chance.
_SHORTEST = 6
_KEPT = (
    "the state folder keeps keyed digests of who was issued, so that nobody is issued twice; backups, input files "
    "and copies that were made elsewhere are not touched"
)


@dataclass(slots=True)
class _Found:
    """Whom a run folder has of a customer: places of rows that go, and cells of other rows."""

    folder: Path
    manifest: Manifest
    rows: set[int] = field(default_factory=set)
    cells: dict[str, list[int]] = field(default_factory=dict)


def erase(loaded: LoadedJob, identifiers: Sequence[str]) -> dict[str, object]:
    """
    Remove customers from every run folder of a job's state folder, with all that stood beside them in their rows.

    Args:
        loaded: The job: its state folder, its `runs_dir`, and how it reads identifiers.
        identifiers: As a file would have them, of one customer or of several.

    Returns:
        The receipt, as it is kept in `erasures/` of the state folder: when, and of each run how many rows, which, and
        the digests of its files before and after. No identifier stands in it.

    Raises:
        UsageRefused: One is no identifier.
        StateRefused: A row of theirs is unknown or may yet be sent; nothing is erased then.
        TargetLocked: A run holds a target, or another process erases. What was begun is brought to its end by the next
            start.
    """
    store_at(loaded.state_dir).require()
    with erasure.locked(loaded.state_dir):
        return _erase_as_planned(loaded, identifiers)


def _erase_as_planned(loaded: LoadedJob, identifiers: Sequence[str]) -> dict[str, object]:
    """With the lock held; one that was killed is brought to its end as well."""
    for folder in folders_of(loaded):
        if redaction.is_halfway(folder):
            redaction.finish(folder)
    plan = erasure.read(loaded.state_dir)
    keys = set(plan.keys)
    for identifier in identifiers:
        mine = keys_of(loaded, identifier).rows()
        if not mine:
            raise UsageRefused("a line of the input is no identifier", hint="one identifier on each line")
        keys |= set(mine)
    found, keys = _whole_customers(loaded, keys)
    texts = {text for _, text in keys if len(text) >= _SHORTEST}
    for one in found:
        _find_cells(one, texts)
    affected = [one for one in found if one.rows or one.cells]
    for one in affected:
        _refuse_unsettled(one)
    runs = {run.run_id: run for run in plan.runs}
    for one in affected:
        runs[one.manifest.run_id] = _planned(one, runs.get(one.manifest.run_id))
    plan = msgspec.structs.replace(plan, keys=tuple(sorted(keys)), runs=tuple(runs.values()))
    erasure.write(loaded.state_dir, plan)
    reached("erase.planned")
    for one in affected:
        _erase(loaded, one, keys, plan.at)
    lookups = forget(loaded, keys)
    words = store_at(loaded.state_dir).erase_words({text for _, text in keys})
    reached("erase.forgotten")
    told = [_receipt_of(run, plan.at) for run in sorted(plan.runs, key=lambda run: run.run_id)]
    receipt = {"erased_at": plan.at, "runs": told, "lookups": lookups, "words": words, "kept": _KEPT}
    kept = loaded.state_dir / "erasures"
    make_folder(kept)
    write_whole(kept / f"{plan.receipt}.json", msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n")
    reached("erase.told")
    erasure.end(loaded.state_dir)
    return receipt


def _planned(found: _Found, before: PlannedRun | None) -> PlannedRun:
    places = pl.Series(sorted(found.rows), dtype=pl.UInt32)
    rows = row_names(found.folder / "input.parquet", places)["name"].to_list()
    cells = sum(map(len, found.cells.values()))
    if before is not None:  # whom its first start found in the run, and has erased there
        rows, cells = list(dict.fromkeys([*before.rows, *rows])), max(cells, before.cells)
    return PlannedRun(found.manifest.run_id, str(found.folder), rows, cells, found.manifest.rehearsal)


def _receipt_of(run: PlannedRun, at: str) -> dict[str, object]:
    if run.rehearsal:
        return {"run_id": run.run_id, "rehearsal": "removed"}
    folder = Path(run.folder)
    removals = run_folder.read_manifest(folder).removals if folder.is_dir() else ()
    before = next((removal.before for removal in removals if (removal.by, removal.at) == ("erase", at)), None)
    if before is None:
        return {"run_id": run.run_id, "rows": run.rows, "gone": "purged or removed between two starts of this erasure"}
    files = {name: {"before": digest, "after": sha256(folder / name)} for name, digest in before.items()}
    return {"run_id": run.run_id, "rows": run.rows, "cells": run.cells, "files": files}


def _whole_customers(loaded: LoadedJob, keys: set[Key]) -> tuple[list[_Found], set[Key]]:
    """The rows of these keys in every run, and of the keys that stand beside them there, until there are no more."""
    found = []
    for folder in folders_of(loaded):
        try:
            manifest = run_folder.read_manifest(folder)
        except StateRefused:
            if (folder / "journal.db").exists():
                raise
            continue
        if not manifest.purged_at and (folder / "plan.parquet").exists():
            found.append(_Found(folder, manifest))
    while True:
        beside = set(keys)
        for one in found:
            mine = _rows_of(one.folder / "plan.parquet", keys)
            one.rows |= set(mine["row"].to_list())
            beside |= _keys_in(mine)
            beside |= {("id", customer) for customer in _customer_ids(one)}
        if beside == keys:
            return found, keys
        keys = beside


def _rows_of(plan: Path, keys: set[Key]) -> pl.DataFrame:
    by_kind = {kind: [text for one, text in keys if one == kind] for kind in KNOWN_BY}
    key = pl.coalesce("compare_key", "identifier")
    sent = pl.col("identifier_type").cast(pl.String)
    mine = pl.any_horizontal(
        ((sent == kind) & key.is_in(by_kind[kind])).fill_null(value=False)
        | pl.col(name).is_in(by_kind[kind]).fill_null(value=False)
        for kind, name in KNOWN_BY.items()
    )
    rows = pl.scan_parquet(plan, glob=False).filter(mine)
    return rows.select("row", sent, "identifier", key.alias("key"), *KNOWN_BY.values()).collect(engine="streaming")


def _keys_in(rows: pl.DataFrame) -> set[Key]:
    found = set(rows.select("identifier_type", "key").drop_nulls().rows())
    for kind, name in KNOWN_BY.items():
        found |= {(kind, text) for text in rows[name].drop_nulls()}
    return found


def _customer_ids(found: _Found) -> set[str]:
    """The service's own ids of the customers of these rows, as its answers told them."""
    ids: set[str] = set()
    for piece in _pieces(found):
        mine = piece.own.filter(pl.col("_bi_place").is_in(sorted(found.rows)))
        ids |= set(mine["_bi_customer_id"].drop_nulls())
    return ids


def _pieces(found: _Found) -> Iterator[derivation.Piece]:
    journal = found.folder / "journal.db"
    if not found.rows or not journal.exists():
        return
    halt = halt_of(found.manifest)
    ending = derivation.Ending(completed=True) if halt is None else derivation.Ending(False, halt.reason, halt.message)
    digest = found.manifest.digests["plan.parquet"]
    looked = look_at_journal(found.folder, run_id=found.manifest.run_id, plan_sha256=digest)
    try:
        for piece in derivation.pieces(derivation.Run.of(found.folder, found.manifest), looked, ending):
            if piece.own["_bi_place"].is_in(sorted(found.rows)).any():
                yield piece
    finally:
        looked.leave()


def _find_cells(found: _Found, texts: set[str]) -> None:
    """Cells of other rows in which something of the customer stands; a row that was not sent goes as a whole."""
    folder, wanted = found.folder, sorted(texts)
    if not wanted:
        return
    rows = pl.scan_parquet(folder / "input.parquet", glob=False)
    digits = [text for text in wanted if text.isdigit()]
    holds = {
        name: pl.col(name).str.to_lowercase().str.contains_any([text.lower() for text in wanted])
        | (pl.col(name).str.replace_all(r"[^0-9]", "").str.contains_any(digits) if digits else pl.lit(value=False))
        for name in found.manifest.columns
    }
    hits = (
        rows.select(expression.fill_null(value=False).alias(name) for name, expression in holds.items())
        .with_row_index("row")
        .filter(pl.any_horizontal(*holds))
        .collect(engine="streaming")
        .filter(~pl.col("row").is_in(sorted(found.rows)))
    )
    if hits.is_empty():
        return
    plan = pl.scan_parquet(folder / "plan.parquet", glob=False).select("row", "outcome", "identifier").collect()
    unsent = plan.filter(pl.col("outcome").is_not_null() & pl.col("identifier").is_null())["row"]
    found.rows |= set(hits["row"].filter(hits["row"].is_in(unsent.implode())).to_list())
    others = hits.filter(~pl.col("row").is_in(sorted(found.rows)))
    for name in holds:
        if places := others["row"].filter(others[name]).to_list():
            found.cells[name] = places


def _refuse_unsettled(found: _Found) -> None:
    manifest = found.manifest
    if manifest.rehearsal:
        return
    if manifest.exit_code is None or manifest.state in {"planned", "running"}:
        raise StateRefused(
            f"run {manifest.run_id} has not come to its end, and the customer is in it",
            hint=f"bulkissue resume {manifest.run_id}, then erase",
        )
    if not (found.folder / "journal.db").exists():
        raise StateRefused(f"run {manifest.run_id} has no journal", hint="start the job again; or remove the folder")
    open_ones = [Outcome.UNKNOWN.value]
    if manifest.state != "completed":
        open_ones.append(Outcome.NOT_ATTEMPTED.value)
    for piece in _pieces(found):
        left = piece.shared["_bi_outcome"].cast(pl.String).is_in(open_ones).gather(piece.line)
        mine = piece.own["_bi_place"].filter(left & piece.own["_bi_place"].is_in(sorted(found.rows)))
        if mine.len():
            row = row_names(found.folder / "input.parquet", mine.cast(pl.UInt32))["name"][0]
            raise StateRefused(
                f"{row} of run {manifest.run_id} is of the customer, and is not settled: it is unknown, or may yet "
                "be sent",
                hint=f"bulkissue reconcile or resume {manifest.run_id}, then erase",
            )


def _erase(loaded: LoadedJob, found: _Found, keys: set[Key], at: str) -> None:
    folder, manifest = found.folder, found.manifest
    if manifest.rehearsal:  # of which nothing has to be remembered
        rehearsal.forget(manifest)
        shutil.rmtree(folder)
        return
    state_dir = Path(manifest.state_dir) if Path(manifest.state_dir).is_dir() else loaded.state_dir
    texts = [text for _, text in keys]
    known = dict.fromkeys(found.rows, texts)
    locked = store_at(state_dir).locked(parse(manifest.target), new_run_id())
    with locked as state, run_folder.run_locked(folder, manifest.run_id):
        run_folder.refuse_changed(folder, manifest)
        gone = Gone(frozenset(found.rows), known, found.cells, "erase", at)
        remembered = state.issued(only=manifest.run_id).lines
        redaction.redact(folder, manifest, gone, remembered, state.digests)
