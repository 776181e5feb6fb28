"""
Runs: start one, go on with one, take a finished one's failures up again, and settle its unknown rows.

Plain functions, callable without the command line. Each holds the target's lock from before history is
read until it is written; none may send anything outside of it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from bulkissue import logs
from bulkissue.commands.confirmation import Confirmation, question
from bulkissue.commands.preparation import Choices, look_customers_up, manifest_of, refuse_other_names, take_input
from bulkissue.commands.recovery import recover
from bulkissue.commands.session import Result, Session, Watch, ending_of, now_ms
from bulkissue.commands.state import refuse_forgotten
from bulkissue.errors import ExitCode, SettingsRefused, StateRefused, UsageRefused
from bulkissue.failpoint import reached
from bulkissue.files import write_whole
from bulkissue.job import loading
from bulkissue.job.credentials import Credentials, read_credentials
from bulkissue.job.target import parse
from bulkissue.outcomes import LEDGER_OF, Outcome
from bulkissue.plan import plan
from bulkissue.reconcile import customers
from bulkissue.reconcile.by_hand import Word, settlements
from bulkissue.reconcile.reading_back import Account, Case, read_back
from bulkissue.results import derivation
from bulkissue.send.guards import Halt
from bulkissue.state import register, run_folder
from bulkissue.state.entries import Held, Settlement
from bulkissue.state.folder import beginning, open_state, require_state
from bulkissue.state.journal import SENT, Journal
from bulkissue.state.run_folder import Manifest


def start(
    loaded: loading.LoadedJob, choices: Choices, confirmation: Confirmation, environ: Mapping[str, str], watch: Watch
) -> Result:
    """
    Execute a job over its input files.

    Raises:
        BulkissueError: Nothing was sent (`SettingsRefused`, `InputRefused`, `TargetLocked`), or the run
            stopped because its journal could not be written (`StateRefused`).
    """
    started = time.monotonic()
    confirmation.require_possible()
    paths = loading.input_files(loaded)
    credentials = _signed_in(loaded, environ, watch)
    target = loaded.job.issues()
    run_id = run_folder.new_run_id()
    logs.bind(run_id=run_id, job=loaded.job.job.name)
    # A rehearsal's state folder is new each time: it has nothing to forget.
    open_state(loaded.state_dir, loaded.runs_dir, init=choices.init_state or choices.rehearsal)
    with register.locked(loaded.state_dir, target, run_id) as state, ExitStack() as held:
        reached("state.opened")
        folder = run_folder.make_run_folder(loaded.runs_dir, run_id)
        held.enter_context(register.run_locked(folder, run_id))
        reached("folder.made")
        try:
            write_whole(folder / "job.toml", loading.effective_toml(loaded))
            intake = take_input(paths, loaded, folder, choices.expect_rows, watch)
            reached("input.taken")
            state.digest_old_history()
            recover(state)
            refuse_forgotten(loaded, target)
            known = look_customers_up(loaded, folder, intake, credentials, watch)
            drawn = plan.draw(
                folder / "input.parquet",
                intake,
                loaded.job,
                state.issued(),
                limit=choices.limit,
                out=folder / "plan.parquet",
                customers=known,
            )
            reached("plan.drawn")
            refuse_other_names(loaded, folder / "plan.parquet", drawn, known)
            watch.planned(drawn, folder)
            if drawn.to_send:
                confirmation.obtain(
                    question(loaded.job, drawn.to_send, drawn.requests, plan.largest(drawn, loaded.job))
                )
        except BaseException:
            run_folder.remove_unsent(folder)  # not yet registered, so nothing can have been sent
            raise
        with beginning(loaded.state_dir) as number:
            reached("number.taken")
            manifest = manifest_of(run_id, number, loaded, intake, choices=choices, drawn=drawn, folder=folder)
            run_folder.write_manifest(folder, manifest)
            reached("manifest.written")
            registered = register.Registered(run_id, str(folder), target.text(), manifest.started_at, number=number)
            state.register(registered)
        reached("run.registered")
        journal = Journal.create(folder / "journal.db", run_id=run_id, plan_sha256=manifest.digests["plan.parquet"])
        reached("journal.made")
        state.register(msgspec.structs.replace(registered, journal=True))
        session = Session(folder, manifest, loaded, journal, state, watch, started)
        return session.send(drawn, credentials)


def resume(
    folder: Path, confirmation: Confirmation, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result:
    """
    Go on with an interrupted, stopped or crashed run, reading only its folder and the environment.

    Args:
        folder: The run's folder.
        confirmation: Whether it may send.
        environ: Credentials, and variables that override limits.
        watch: Who is told.
        say: Told what is about to be sent, kept and left alone.

    Raises:
        BulkissueError: As `start`; also where journal, plan or input cannot be trusted, or the base URL differs.
    """
    loaded = _loaded_where_it_began(folder, environ)
    with _reopened(folder, loaded, watch) as session:
        manifest, journal = session.manifest, session.journal
        with _closed_on_trouble(journal):
            drawn = plan.load(folder / "plan.parquet", loaded.job)
            marks = journal.marks(manifest.rows)
            sent = marks.count(SENT)
            held = rows = requests = 0
            newly: list[Held] = []
            if manifest.state != "completed":
                recover(session.state, without=manifest.run_id)
                known = customers.memory_of(loaded).known() if loaded.job.identifiers.resolve_customers else None
                held, newly = _hold(session, marks, known=known)
                rows, requests = plan.left(folder / "plan.parquet", marks)
                refuse_other_names(loaded, folder / "plan.parquet", drawn, known, marks)
            if rows:
                say(
                    f"{rows} rows are left to send, in {requests} requests; {sent} were sent "
                    f"before and stay as they are; {held} were issued, or may have been, by another run meanwhile"
                )
                confirmation.require_possible()
                confirmation.obtain(question(loaded.job, rows, requests, plan.largest(drawn, loaded.job)))
                credentials = _signed_in(loaded, environ, watch)
            # Only now: a resume that is refused changes nothing.
            journal.write(newly)
        if not rows:
            say("nothing is left to send")
            return session.settle(None)
        return session.send(drawn, credentials, marks)


def retry(
    parent: Path, confirmation: Confirmation, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result | None:
    """
    A new run over a finished run's failure ledger, of the same target and occasion.

    Returns:
        The new run, or None where the failure ledger has no rows.

    Raises:
        UsageRefused: The parent run can still be resumed.
        BulkissueError: As `start`.
    """
    manifest = run_folder.read_manifest(parent)
    if manifest.state != "completed":
        raise UsageRefused(
            f"run {manifest.run_id} has not come to its end and can be resumed",
            hint=f"bulkissue resume {manifest.run_id}",
        )
    ledger = parent / f"{LEDGER_OF[Outcome.FAILED]}.csv"
    if not sum(
        manifest.counts.get(outcome, 0) for outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED)
    ):
        say(f"nothing to retry: the failure ledger of run {manifest.run_id} has no rows")
        return None
    loaded = loading.load(parent / "job.toml", flags={"input.paths": [str(ledger)]}, environ=environ)
    _refuse_elsewhere(loaded, manifest)
    require_state(loaded.state_dir)
    return start(loaded, Choices(parent_run_id=manifest.run_id), confirmation, environ, watch)


def resolve(folder: Path, words: Sequence[Word], watch: Watch) -> Result:
    """
    Settle unknown rows by a person's word; ledgers, counts and history follow.

    Raises:
        UsageRefused: A word names a row that is not unknown, or contradicts another; nothing is settled then.
        BulkissueError: The target is locked, or the run folder cannot be trusted.
    """
    loaded = loading.load(folder / "job.toml", environ={})
    with _reopened(folder, loaded, watch) as session:
        halt = _halt_of(session.manifest)
        with _closed_on_trouble(session.journal):
            frames = derivation.frames(derivation.Run.of(folder, session.manifest), session.journal, ending_of(halt))
            session.journal.write(settlements(words, session.manifest.run_id, _open_to_words(frames), now_ms()))
        return session.settle(halt)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What came of `reconcile`: how the run stands, what was read back, and whether it was only a look."""

    result: Result
    account: Account
    dry_run: bool

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with: the run's own code, unless reading back has worse to say."""
        left = self.account.unknown if self.dry_run else self.account.left
        if left or self.account.doubted:
            return ExitCode.UNKNOWN_ROWS
        if self.account.halt is not None:
            return self.account.halt.exit_code
        return ExitCode.INTERRUPTED if self.result.manifest.exit_code is None else self.result.exit_code


def reconcile(
    folder: Path,
    *,
    dry_run: bool,
    sample: int,
    environ: Mapping[str, str],
    watch: Watch,
    say: Callable[[str], None],
) -> Reconciled:
    """
    Settle unknown rows by reading the service back; ledgers, counts and history follow.

    Args:
        folder: The run's folder. The run need not have come to its end, and is not resumed.
        dry_run: Read, and settle nothing.
        sample: How many succeeded and how many failed rows to hold against the service besides.
        environ: Credentials, and variables that override limits and `[reconcile]`.
        watch: Who is told.
        say: Told what is read back.

    Raises:
        BulkissueError: As `resume`.
    """
    started = time.monotonic()
    loaded = _loaded_where_it_began(folder, environ)
    with _standing(folder) as (manifest, state):
        settled = manifest.exit_code is not None and manifest.state != "running"
        nothing_open = settled and not manifest.counts[Outcome.UNKNOWN]
        if nothing_open and not sample:
            say("no row is unknown: there is nothing to settle")
            return Reconciled(Result(folder, manifest), Account(), dry_run)
        credentials, halt = _signed_in(loaded, environ, watch), _halt_of(manifest)

        def account(journal: Journal, settle: Callable[[Settlement], None]) -> Account:
            case = Case(derivation.Run.of(folder, manifest), journal, ending_of(halt), loaded.job, loaded.state_dir)
            return read_back(case, credentials, sample=sample, settle=settle, say=say)

        if dry_run or nothing_open:
            looked = _look(folder, manifest, state)
            if looked is None:
                return Reconciled(Result(folder, manifest), Account(), dry_run)
            try:
                return Reconciled(Result(folder, manifest), account(looked, lambda _: None), dry_run)
            finally:
                looked.leave()
        journal = _reopen(folder, manifest, state)
        session = Session(folder, manifest, loaded, journal, state, watch, started)
        with _closed_on_trouble(journal):
            found = account(journal, lambda settlement: journal.write([settlement]))
        return Reconciled(session.settle(halt), found, dry_run)


def _signed_in(loaded: loading.LoadedJob, environ: Mapping[str, str], watch: Watch) -> Credentials:
    """The run's credentials; what a person should mend of the files they come from is told."""
    credentials = read_credentials(loaded.job, environ)
    for warning in credentials.warnings:
        watch.warned(warning)
    return credentials


@contextmanager
def _standing(folder: Path) -> Iterator[tuple[Manifest, register.TargetState]]:
    """A run as it stands: its target's lock and its own held, its folder proven unchanged."""
    manifest = run_folder.read_manifest(folder)
    state_dir, target, run_id = Path(manifest.state_dir), parse(manifest.target), manifest.run_id
    logs.bind(run_id=run_id, job=manifest.job)
    require_state(state_dir)
    with register.locked(state_dir, target, run_id) as state, register.run_locked(folder, run_id):
        manifest = run_folder.read_manifest(folder)
        run_folder.refuse_changed(folder, manifest)
        _refuse_second_copy(folder, state.run(run_id))
        yield manifest, state


def _refuse_second_copy(folder: Path, entry: register.Registered | None) -> None:
    """Refuse a run folder beside which the one that was registered is still there."""
    if entry is None:
        return
    registered = Path(entry.run_dir)
    if registered.resolve() != folder.resolve() and (registered / "journal.db").exists():
        raise StateRefused(
            f"{folder} is a copy: run {entry.run_id} is in {registered}",
            hint=f"give the command {registered}; a copy of a run folder is for looking at only",
        )


@contextmanager
def _reopened(folder: Path, loaded: loading.LoadedJob, watch: Watch) -> Iterator["Session"]:
    """A run as it stands, its journal open for writing."""
    started = time.monotonic()
    with _standing(folder) as (manifest, state):
        yield Session(folder, manifest, loaded, _reopen(folder, manifest, state), state, watch, started)


@contextmanager
def _closed_on_trouble(journal: Journal) -> Iterator[None]:
    try:
        yield
    except BaseException:
        journal.close()
        raise


def _refuse_elsewhere(loaded: loading.LoadedJob, manifest: Manifest) -> None:
    """Refuse to go on with a run towards another target, or with another memory, than it began with."""
    if manifest.rehearsal:
        raise UsageRefused(
            f"run {manifest.run_id} was a rehearsal: its stand-in service is gone, and what it knew",
            hint="run the job again with --sandbox; or without, for the real thing",
        )
    if loaded.job.issues().text() != manifest.target:
        raise SettingsRefused(
            f"run {manifest.run_id} issues {parse(manifest.target).describe()}, the environment says otherwise",
            hint="unset BULKISSUE_BASE_URL and BULKISSUE_ENVIRONMENT",
        )
    # Another state folder would forget what was issued.
    if loaded.state_dir.resolve() != Path(manifest.state_dir).resolve():
        raise SettingsRefused(
            f"run {manifest.run_id} keeps its state in {manifest.state_dir}, the environment says {loaded.state_dir}",
            hint="unset BULKISSUE_STATE_DIR",
        )


def _loaded_where_it_began(folder: Path, environ: Mapping[str, str]) -> loading.LoadedJob:
    """
    The job of a run, for going on with it towards the service and the memory that it began with.

    Raises:
        BulkissueError: The environment leads elsewhere, or the state folder is gone.
    """
    manifest = run_folder.read_manifest(folder)
    loaded = loading.load(folder / "job.toml", flags={}, environ=environ)
    _refuse_elsewhere(loaded, manifest)
    if loaded.job.api.base_url != manifest.base_url:
        raise SettingsRefused(
            f"run {manifest.run_id} sends to {manifest.base_url}, the environment says {loaded.job.api.base_url}",
            hint="unset BULKISSUE_BASE_URL; one goes on with a run only where it began",
        )
    require_state(loaded.state_dir)
    return loaded


def _reopen(folder: Path, manifest: Manifest, state: register.TargetState) -> Journal:
    path = folder / "journal.db"
    entry = state.run(manifest.run_id)
    if not path.exists() and manifest.state == "planned" and (entry is None or not entry.journal):
        # Ended between its plan and its journal: it has sent nothing.
        return Journal.create(path, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    journal = Journal.reopen(path, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    if entry is not None:
        with _closed_on_trouble(journal):
            entry.refuse_copy(path, int(journal.meta()["commits"]))
    return journal


def _look(folder: Path, manifest: Manifest, state: register.TargetState) -> Journal | None:
    """The run's journal for reading; None where it never had one, and so has sent nothing."""
    path = folder / "journal.db"
    entry = state.run(manifest.run_id)
    if not path.exists() and manifest.state == "planned" and (entry is None or not entry.journal):
        return None
    return Journal.look(path, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])


def _hold(session: Session, marks: bytearray, *, known: pl.LazyFrame | None) -> tuple[int, list[Held]]:
    """
    Hold every unsent row against history; those another run issued meanwhile leave their batch.

    Returns:
        How many did, at this resume or an earlier one, and the entries that are new.

    Raises:
        StateRefused: History knows that this very run issued a row which its journal calls unsent.
    """
    run_id, journal, job = session.manifest.run_id, session.journal, session.loaded.job
    before = journal.held()
    for item in before:
        marks[item.row] = SENT
    planned = session.folder / "plan.parquet"
    entry, own = session.state.run(run_id), session.state.issued(only=run_id)
    if (entry is None or entry.state != "lost") and plan.hold(planned, marks, own, job).height:
        raise StateRefused(
            f"{journal.path} is older than what run {run_id} did: history knows of rows it issued that are unsent here",
            hint="put back the run folder itself; a copy of it made earlier will not do",
        )
    held = plan.hold(planned, marks, session.state.issued(without=run_id), job, known)
    entries = [Held(row, reason, message) for row, reason, message in held.iter_rows()]
    for one in entries:
        marks[one.row] = SENT
    return len(before) + len(entries), entries


def _open_to_words(frames: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """The rows of which a person can say what became of them, or has said it."""
    columns = ["_bi_place", "_bi_source_file", "_bi_row", "_bi_reason"]
    open_rows = (pl.col("_bi_outcome") == Outcome.UNKNOWN) | pl.col("_bi_reason").str.starts_with("resolve.")
    chosen = [frame.filter(open_rows).select(columns) for frame in frames]
    return pl.concat(chosen) if chosen else pl.DataFrame(schema=columns)


def _halt_of(manifest: Manifest) -> Halt | None:
    """Why the run is not at its end, as it was last written; None where it is."""
    if manifest.stop is not None:
        return Halt(ExitCode(manifest.stop.exit_code), manifest.stop.reason, manifest.stop.message)
    if manifest.state == "completed":
        return None
    return Halt.by("guard.unfinished", exit_code=ExitCode.INTERRUPTED)
