"""
Recovery: what crashed runs issued comes into history, from their journals or else from a person's word.

It must never let a registered run that may have sent something be forgotten: what cannot be read stops the
target until a person says what became of it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from bulkissue import logs
from bulkissue.errors import StateRefused, UsageRefused
from bulkissue.input.intake import take_in
from bulkissue.job.loading import LoadedJob
from bulkissue.job.target import parse, same_target
from bulkissue.outcomes import KNOWN_BY, Outcome
from bulkissue.plan import plan
from bulkissue.results import ledgers
from bulkissue.settle.by_hand import Finding
from bulkissue.state import history, run_folder
from bulkissue.state.protocols import TargetMemory
from bulkissue.state.registered import Registered
from bulkissue.state.store import look_at_journal, store_at


def recover(state: TargetMemory, *, without: str = "") -> None:
    """
    Read runs that crashed, and runs whose history is gone, from their journals into history.

    Args:
        state: The target's state, locked: nobody of this target is sending.
        without: A run that looks after itself.

    Raises:
        StateRefused: A run may have sent something, and its journal is gone or cannot be trusted.
        TargetLocked: A run that is to be read is alive: the state folder was replaced while it sends.
    """
    for run in state.runs():
        folder = Path(run.run_dir)
        if run.run_id == without:
            continue
        if run.state == "open" and not run.journal and not (folder / "journal.db").exists():
            continue  # ended before it could send
        # A run that has ended always has a history file, be it empty. Where it is missing, or is not the one that was
        # written last, as in a folder that was half restored, its journal is read again.
        if run.state != "open" and state.remembers(run):
            continue
        crashed = run.state == "open"
        try:
            with run_folder.run_locked(folder, run.run_id):
                _refuse_untrusted(folder, run)
                with tempfile.TemporaryDirectory(prefix=".recover-", dir=folder) as scratch:
                    parts = ledgers.journalled_history(folder, Path(scratch))
                    size = state.write_history(run.run_id, state.digests.of_run(parts, folder))
        except StateRefused as trouble:
            raise StateRefused(
                f"run {run.run_id} of this target {'crashed and' if crashed else 'has lost its history,'} "
                f"may have issued, and its journal is not to be had: {trouble.message}",
                hint=f"restore the run folder {folder}{'' if crashed else ' or the state folder'}; if it is lost, "
                f"say what became of the run: bulkissue resolve {run.run_id} --job JOB.toml --as …",
            ) from trouble
        standing = "settled" if run.state == "settled" else "recovered"
        state.register(msgspec.structs.replace(run, state=standing, history_file=size))
        logs.get().warning("run.recovered", run=run.run_id)


def _refuse_untrusted(folder: Path, run: Registered) -> None:
    """Make sure that a run's folder can say what the run issued."""
    if not (folder / "journal.db").exists():
        raise StateRefused(f"{folder / 'journal.db'} is missing")
    if not (folder / run_folder.MANIFEST).exists():
        raise StateRefused(f"{folder / run_folder.MANIFEST} is missing")
    manifest = run_folder.read_manifest(folder)
    run_folder.refuse_changed(folder, manifest)
    path = folder / "journal.db"
    journal = look_at_journal(folder, run_id=run.run_id, plan_sha256=manifest.digests["plan.parquet"])
    try:
        run.refuse_copy(path, int(journal.meta()["commits"]))
    finally:
        journal.leave()


@dataclass(frozen=True, slots=True)
class LastWord:
    """
    What a person says of a crashed run whose folder is lost.

    Attributes:
        run_id: The run, as the register has it.
        finding: `issued`: to the customers of `files`, and to nobody else. `not-issued`: to nobody.
        files: What the job can read; the run's own input, or a list of those who were issued.
        by: Who says so.
        evidence: Where it can be looked up.
    """

    run_id: str
    finding: Finding
    files: tuple[Path, ...]
    by: str
    evidence: str


def last_word(
    run_id: str, finding: str | None, files: Sequence[Path], by: str | None, evidence: str | None
) -> LastWord:
    """
    The word, from what a command line says.

    Raises:
        UsageRefused: Something is missing, or does not go together.
    """
    if finding is None or not by or not evidence:
        raise UsageRefused(
            "a settlement needs --as, --by and --evidence", hint='--as not-issued --by "Asha" --evidence "ticket 4711"'
        )
    if (finding == "issued") != bool(files):
        raise UsageRefused(
            "--as issued goes with --issued-to, and --as not-issued goes without",
            hint="--as issued --issued-to FILE, where FILE lists whom; the run's own input, if nobody knows better",
        )
    return LastWord(run_id, "issued" if files else "not-issued", tuple(files), by, evidence)


def settle_lost(loaded: LoadedJob, word: LastWord) -> int:
    """
    Let a person's word stand for a lost journal; history follows, and the target is free again.

    The word is kept in the state folder, and every later one beside it; a later one can only name more.
    Where the run folder is found again the run can still be resumed, and what its journal says replaces the word.

    Args:
        loaded: A job of the same promotion or series; it says where the state is and how files are read.
        word: What is said.

    Returns:
        How many customers count as issued by the run.

    Raises:
        UsageRefused: The register knows no such run, or its books are written, or its folder is there, or the word
            takes back that somebody was issued.
        BulkissueError: The target is locked, or a file is refused.
    """
    entry = store_at(loaded.state_dir).run(word.run_id)
    if entry is None:
        raise UsageRefused(
            f"no run {word.run_id} is registered in {loaded.state_dir}",
            hint="give the whole run id, as the refused command names it, and a job that uses the same state folder",
        )
    target = parse(entry.target)
    if not same_target(replace(loaded.job.issues(), occasion=target.occasion).text(), entry.target):
        raise UsageRefused(
            f"run {word.run_id} issues {target.describe()}, the job {loaded.job.issues().describe()}",
            hint="give the job the run was started with",
        )
    with store_at(loaded.state_dir).locked(target, word.run_id) as state:
        entry = state.run(word.run_id) or entry
        if entry.state not in {"open", "lost"} and state.remembers(entry):
            raise UsageRefused(f"the books of run {word.run_id} are written: there is nothing to say of it as a whole")
        if _can_be_trusted(Path(entry.run_dir), entry):
            raise UsageRefused(
                f"the folder and the journal of run {word.run_id} are there", hint=f"bulkissue resume {entry.run_dir}"
            )
        with tempfile.TemporaryDirectory(prefix="bulkissue-") as name:
            named = _customers(loaded, word, entry.target, Path(name)) if word.files else _nobody()
            customers = state.digests.digested(named.lazy()).collect()
            if entry.state == "lost":
                customers = _with_those_named_before(customers, state.issued(only=word.run_id).lines.collect(), word)
            said = {
                "run": word.run_id,
                "as": word.finding,
                "by": word.by,
                "evidence": word.evidence,
                "files": [str(path) for path in word.files],
                "customers": customers.height,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            }
            state.keep_word(word.run_id, said, named)
            size = state.write_history(word.run_id, customers.lazy())
        state.register(msgspec.structs.replace(entry, state="lost", history_file=size))
    logs.get().warning("run.given_up", run=word.run_id, finding=word.finding, customers=customers.height)
    return customers.height


def _can_be_trusted(folder: Path, run: Registered) -> bool:
    try:
        _refuse_untrusted(folder, run)
    except StateRefused:
        return False
    return True


def _customers(loaded: LoadedJob, word: LastWord, target: str, folder: Path) -> pl.DataFrame:
    """Everybody in the word's files, once, as a run tells it."""
    out = folder / "input.parquet"
    intake = take_in(list(word.files), base=loaded.base, settings=loaded.job.input, target=target, out=out)
    rows = plan.plan_rows(out, intake, loaded.job, history.nobody())
    places = pl.read_parquet(out, columns=["_bi_source_file", "_bi_row"])
    return (
        rows.hstack(places)
        .filter(pl.col("identifier").is_not_null())
        .select(
            "identifier_type",
            pl.coalesce("compare_key", "identifier").alias("compare_key"),
            pl.lit(Outcome.SUCCEEDED.value).alias("outcome"),
            pl.lit(word.run_id).alias("run"),
            pl.col("_bi_source_file").alias("source_file"),
            pl.col("_bi_row").alias("source_row"),
            *(pl.lit(None).alias(name) for name in ("customer_id", "reference", "answered_at")),
            *KNOWN_BY.values(),
            pl.lit(loaded.job.identifiers.calling_code or "").alias("country_code"),
            pl.lit(loaded.job.identifiers.national_length).alias("national_length"),
        )
        .select(pl.col(name).cast(kind) for name, kind in history.RUN_SCHEMA.items())
        .unique(["identifier_type", "compare_key"], keep="first", maintain_order=True)
    )


def _with_those_named_before(customers: pl.DataFrame, before: pl.DataFrame, word: LastWord) -> pl.DataFrame:
    """Who was said to be issued stays so: they may have been told, and nothing may be sent to them again."""
    if before.height and word.finding == "not-issued":
        raise UsageRefused(
            f"run {word.run_id} was said to have issued to {before.height:,} customers, and that stays",
            hint="to issue to them once more on purpose, give an --occasion",
        )
    return pl.concat([before, customers]).unique("key", keep="first", maintain_order=True)


def _nobody() -> pl.DataFrame:
    return pl.DataFrame(schema=history.RUN_SCHEMA)
