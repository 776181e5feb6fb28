"""
The campaign: a run, what it was a retry of, and its own retries, with a total that counts every row once.

Reads manifests and ledgers of the runs folder. It must never count a row twice, or one whose ledger it has not read.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from bulkissue.errors import StateRefused
from bulkissue.job.target import same_target
from bulkissue.outcomes import Ledger, Outcome
from bulkissue.state import run_folder
from bulkissue.state.run_folder import Manifest

#: A parent may be named by a ledger that somebody edited; it becomes a path.
_RUN_ID = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{4}")
_KEY = ["_bi_source_file", "_bi_row"]


@dataclass(frozen=True, slots=True)
class Member:
    """A run of the campaign."""

    folder: Path
    manifest: Manifest

    @property
    def has_ledgers(self) -> bool:
        """Whether its rows have been told; not so while it runs, or after a crash."""
        return self.manifest.exit_code is not None and self.manifest.state != "running"


@dataclass(frozen=True, slots=True)
class Campaign:
    """
    A run with its kin.

    Attributes:
        members: The first run, then its retries and theirs, oldest first.
        missing_parent: The run that the first one took its rows from, where it is not in the runs folder or has another
            target; empty otherwise.
        counts: The first run's rows by the outcome they have now; empty where that cannot be told.
        added: Rows of later runs that the first one did not have, added by hand. They stand in `counts`.
        untold: Runs without ledgers; their rows count as the run before left them.
    """

    members: tuple[Member, ...]
    missing_parent: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    added: int = 0
    untold: tuple[str, ...] = ()


def find(folder: Path, manifest: Manifest) -> Campaign:
    """
    The campaign of a run whose ledgers are written.

    Args:
        folder: Its folder; its kin is looked for beside it.
        manifest: The run as it now stands, whatever `run.json` says.
    """
    known = {manifest.run_id: Member(folder, manifest)}
    first = known[manifest.run_id]
    while (parent := _member(folder.parent, first.manifest.parent_run_id, manifest.target)) is not None:
        if parent.manifest.run_id in known:
            break
        first = known[parent.manifest.run_id] = parent
    # A retry is younger than what it retries, and its name says how old it is.
    for path in sorted(folder.parent.glob("*T*Z-*")):
        if path.name > first.manifest.run_id and path.name not in known:
            member = _member(folder.parent, path.name, manifest.target)
            if member is not None and member.manifest.parent_run_id in known:
                known[path.name] = member
    members = tuple(known[run_id] for run_id in sorted(known))
    named = first.manifest.parent_run_id or ""
    told = [member for member in members[1:] if member.has_ledgers]
    untold = tuple(member.manifest.run_id for member in members[1:] if not member.has_ledgers)
    if not told or not first.has_ledgers:
        return Campaign(members, named, dict(first.manifest.counts), untold=untold)
    try:
        counts, added = _total(first, told)
    except (OSError, pl.exceptions.PolarsError):  # a ledger was moved or edited
        return Campaign(members, named, untold=untold)
    return Campaign(members, named, counts, added, untold)


def _member(runs_dir: Path, run_id: str | None, target: str) -> Member | None:
    if run_id is None or not _RUN_ID.fullmatch(run_id):
        return None
    try:
        manifest = run_folder.read_manifest(runs_dir / run_id)
    except (StateRefused, OSError):
        return None
    return Member(runs_dir / run_id, manifest) if same_target(manifest.target, target) else None


def _total(first: Member, later: list[Member]) -> tuple[dict[str, int], int]:
    """
    Every row once: succeeded where any run says so, else unknown where any does, else as its youngest run says.

    Only rows that a later run took up are looked at one by one; for the others the first run's counts stand.
    """
    taken = pl.concat([_rows(member, age) for age, member in enumerate(later, start=1)]).collect(engine="streaming")
    keys = taken.select(_KEY).unique()
    before: list[pl.DataFrame] = []
    for ledger in (Ledger.FAILURE, Ledger.DUPLICATE, Ledger.UNKNOWN, Ledger.SUCCESS):
        if sum(frame.height for frame in before) < keys.height:
            rows = _ledger(first.folder / f"{ledger}.csv", 0)
            before.append(rows.join(keys.lazy(), on=_KEY, how="semi").collect(engine="streaming"))
    beginnings = pl.concat(before)
    weight = (
        pl.when(pl.col("_bi_outcome") == Outcome.SUCCEEDED)
        .then(-2)
        .when(pl.col("_bi_outcome") == Outcome.UNKNOWN)
        .then(-1)
        .otherwise(1_000_000 - pl.col("age"))
    )
    endings = pl.concat([beginnings, taken]).group_by(_KEY).agg(pl.col("_bi_outcome").sort_by(weight).first())
    counts = Counter({outcome.value: first.manifest.counts.get(outcome, 0) for outcome in Outcome})
    counts.subtract(beginnings["_bi_outcome"].to_list())
    counts.update(dict(endings.group_by("_bi_outcome").len().iter_rows()))
    return {"rows": counts.total(), **counts}, keys.height - beginnings.height


def _rows(member: Member, age: int) -> pl.LazyFrame:
    return pl.concat([_ledger(member.folder / f"{ledger}.csv", age) for ledger in Ledger])


def _ledger(path: Path, age: int) -> pl.LazyFrame:
    return pl.scan_csv(path, infer_schema=False, glob=False).select(*_KEY, "_bi_outcome", pl.lit(age).alias("age"))
