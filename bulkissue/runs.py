"""
Runs: start one, go on with one, take a finished one's failures up again, and settle the books.

Plain functions, callable without the command line. Each holds the target's lock from before history is
read until it is written; none may send anything outside of it.
"""

import asyncio
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from bulkissue import customers, history, jobfile, ledgers, logs, plan, report, runfolder
from bulkissue.crashpoint import reached
from bulkissue.credentials import Credentials, read_credentials
from bulkissue.dispatch import Dispatch
from bulkissue.endpoints import offer_of
from bulkissue.errors import (
    ExitCode,
    InputRefused,
    SettingsRefused,
    StateRefused,
    UsageRefused,
)
from bulkissue.files import identity, sha256, write_whole
from bulkissue.guards import Guards, Halt, Tally
from bulkissue.intake import Intake, take_in
from bulkissue.job import Job
from bulkissue.journal import SENT, Event, Held, Journal, Settlement
from bulkissue.outcomes import LEDGER_OF, Outcome
from bulkissue.reader import lane_of
from bulkissue.reconcile import Account, Case, read_back
from bulkissue.recovery import recover
from bulkissue.runfolder import InputDigest, Manifest, Stop
from bulkissue.settle import Word, settlements
from bulkissue.target import parse
from bulkissue.wire.auth import make_auth

_STATE_OF_EXIT: dict[ExitCode, runfolder.State] = {ExitCode.INTERRUPTED: "interrupted"}


@dataclass(frozen=True, slots=True)
class Consent:
    """
    Whether this run may send.

    Attributes:
        given: `--yes`, or the job is `unattended`.
        ask: Puts the question to a person; None where there is nobody to ask.
    """

    given: bool
    ask: Callable[[str], bool] | None = None

    def require_possible(self) -> None:
        """
        Refuse at once what nobody can consent to later.

        Raises:
            SettingsRefused: There is no terminal, and neither `--yes` nor `unattended`.
        """
        if not self.given and self.ask is None:
            raise SettingsRefused(
                "there is no terminal to ask on, and the job is not unattended: nothing was sent",
                hint="say --yes, or set unattended = true under [job]",
            )

    def obtain(self, question: str) -> None:
        """
        Ask, unless consent is given already.

        Raises:
            UsageRefused: The answer is no.
        """
        if not self.given and not (self.ask is not None and self.ask(question)):
            raise UsageRefused("not confirmed: nothing was sent")


@dataclass(frozen=True, slots=True)
class Watch:
    """
    Who is told what while a run goes on; each may be left out.

    Attributes:
        taken: The input was read.
        planned: The plan stands; with the run's folder (a temporary one on a dry run).
        sending: The tally has changed; with the rows to send in all.
        looking_up: So many customers were looked up, of so many.
    """

    taken: Callable[[Intake], None] = lambda _: None
    planned: Callable[[plan.Plan, Path], None] = lambda _plan, _folder: None
    sending: Callable[[Tally, int], None] = lambda _tally, _rows: None
    looking_up: Callable[[int, int], None] = lambda _asked, _of: None


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line adds to a job for one run."""

    limit: int | None = None
    expect_rows: int | None = None
    init_state: bool = False
    rehearsal: bool = False
    parent_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a run stands: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return ExitCode(self.manifest.exit_code if self.manifest.exit_code is not None else ExitCode.INTERNAL)


def start(
    loaded: jobfile.LoadedJob, choices: Choices, consent: Consent, environ: Mapping[str, str], watch: Watch
) -> Result:
    """
    Execute a job over its input files.

    Raises:
        BulkissueError: Nothing was sent (`SettingsRefused`, `InputRefused`, `TargetLocked`), or the run
            stopped because its journal could not be written (`StateRefused`).
    """
    started = time.monotonic()
    consent.require_possible()
    paths = jobfile.input_files(loaded)
    credentials = read_credentials(loaded.job, environ)
    target = loaded.job.issues()
    run_id = runfolder.new_run_id()
    # A rehearsal's state folder is new each time: it has nothing to forget.
    history.open_state(loaded.state_dir, loaded.runs_dir, init=choices.init_state or choices.rehearsal)
    with history.locked(loaded.state_dir, target, run_id) as state, ExitStack() as held:
        reached("state.opened")
        folder = runfolder.make_run_folder(loaded.runs_dir, run_id)
        held.enter_context(history.run_locked(folder, run_id))
        reached("folder.made")
        try:
            write_whole(folder / "job.toml", jobfile.effective_toml(loaded))
            intake = _take_in(paths, loaded, folder, choices.expect_rows, watch)
            reached("input.taken")
            recover(state)
            known = _look_customers_up(loaded, folder, intake, credentials, watch)
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
            watch.planned(drawn, folder)
            if drawn.to_send:
                consent.obtain(question(loaded.job, drawn.to_send, drawn.requests, plan.largest(drawn, loaded.job)))
        except BaseException:
            runfolder.remove_unsent(folder)  # not yet registered, so nothing can have been sent
            raise
        manifest = _manifest(run_id, loaded, intake, choices, folder)
        runfolder.write_manifest(folder, manifest)
        reached("manifest.written")
        registered = history.Registered(run_id, str(folder), target.text(), manifest.started_at)
        state.register(registered)
        reached("run.registered")
        journal = Journal.create(folder / "journal.db", run_id=run_id, plan_sha256=manifest.digests["plan.parquet"])
        reached("journal.made")
        state.register(msgspec.structs.replace(registered, journal=True))
        session = _Session(folder, manifest, loaded, journal, state, watch, started)
        return session.send(drawn, credentials)


def resume(
    folder: Path, consent: Consent, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result:
    """
    Go on with an interrupted, stopped or crashed run, reading only its folder and the environment.

    Args:
        folder: The run's folder.
        consent: Whether it may send.
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
                held, newly = _hold(folder, manifest.run_id, journal, marks, session.state, known=known)
                rows, requests = plan.left(folder / "plan.parquet", drawn, marks)
            if rows:
                say(
                    f"{rows} rows are left to send, in {requests} requests; {sent} were sent "
                    f"before and stay as they are; {held} were issued, or may have been, by another run meanwhile"
                )
                consent.require_possible()
                consent.obtain(question(loaded.job, rows, requests, plan.largest(drawn, loaded.job)))
                credentials = read_credentials(loaded.job, environ)
            # Only now: a resume that is refused changes nothing.
            journal.write(newly)
        if not rows:
            say("nothing is left to send")
            return session.settle(None)
        return session.send(drawn, credentials, marks)


def retry(
    parent: Path, consent: Consent, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result | None:
    """
    A new run over a finished run's failure ledger, of the same target and occasion.

    Returns:
        The new run, or None where the failure ledger has no rows.

    Raises:
        UsageRefused: The parent run can still be resumed.
        BulkissueError: As `start`.
    """
    manifest = runfolder.read_manifest(parent)
    if manifest.state != "completed":
        raise UsageRefused(
            f"run {manifest.run_id} is {manifest.state} and can be resumed",
            hint=f"bulkissue resume {manifest.run_id}",
        )
    ledger = parent / f"{LEDGER_OF[Outcome.FAILED]}.csv"
    if not sum(
        manifest.counts.get(outcome, 0) for outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED)
    ):
        say(f"nothing to retry: the failure ledger of run {manifest.run_id} has no rows")
        return None
    loaded = jobfile.load(parent / "job.toml", flags={"input.paths": [str(ledger)]}, environ=environ)
    _refuse_elsewhere(loaded, manifest)
    history.require_state(loaded.state_dir)
    return start(loaded, Choices(parent_run_id=manifest.run_id), consent, environ, watch)


def resolve(folder: Path, words: Sequence[Word], watch: Watch) -> Result:
    """
    Settle unknown rows by a person's word; ledgers, counts and history follow.

    Raises:
        UsageRefused: A word names a row that is not unknown; nothing is settled then.
        BulkissueError: The target is locked, or the run folder cannot be trusted.
    """
    loaded = jobfile.load(folder / "job.toml", environ={})
    with _reopened(folder, loaded, watch) as session:
        halt = _halt_of(session.manifest)
        with _closed_on_trouble(session.journal):
            frames = ledgers.derive(_ledger_run(folder, session.manifest), session.journal, _ending(halt))
            session.journal.write(settlements(words, _unknown(frames), _now_ms()))
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
        credentials, halt = read_credentials(loaded.job, environ), _halt_of(manifest)

        def account(journal: Journal, settle: Callable[[Settlement], None]) -> Account:
            case = Case(_ledger_run(folder, manifest), journal, _ending(halt), loaded.job, loaded.state_dir)
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
        session = _Session(folder, manifest, loaded, journal, state, watch, started)
        with _closed_on_trouble(journal):
            found = account(journal, lambda settlement: journal.write([settlement]))
        return Reconciled(session.settle(halt), found, dry_run)


@contextmanager
def _standing(folder: Path) -> Iterator[tuple[Manifest, history.TargetState]]:
    """A run as it stands: its target's lock and its own held, its folder proven unchanged."""
    manifest = runfolder.read_manifest(folder)
    state_dir, target, run_id = Path(manifest.state_dir), parse(manifest.target), manifest.run_id
    history.require_state(state_dir)
    with history.locked(state_dir, target, run_id) as state, history.run_locked(folder, run_id):
        manifest = runfolder.read_manifest(folder)
        runfolder.refuse_changed(folder, manifest)
        yield manifest, state


@contextmanager
def _reopened(folder: Path, loaded: jobfile.LoadedJob, watch: Watch) -> Iterator["_Session"]:
    """A run as it stands, its journal open for writing."""
    started = time.monotonic()
    with _standing(folder) as (manifest, state):
        yield _Session(folder, manifest, loaded, _reopen(folder, manifest, state), state, watch, started)


@contextmanager
def _closed_on_trouble(journal: Journal) -> Iterator[None]:
    try:
        yield
    except BaseException:
        journal.close()
        raise


@dataclass(frozen=True, slots=True)
class Preview:
    """
    What a run would do: its input, its plan, and for each reason why rows would not be sent, some of them.

    Attributes:
        not_looked_up: Identifiers whose customer a run would look up first; more rows may prove to be duplicates.
    """

    intake: Intake
    plan: plan.Plan
    settled: list[dict[str, object]]
    not_looked_up: int = 0


def preview(loaded: jobfile.LoadedJob, choices: Choices, out: Path | None, watch: Watch) -> Preview:
    """
    Read, validate and plan as `start` would, and send nothing; makes no run folder and takes no lock.

    Args:
        loaded: The job.
        choices: As for `start`.
        out: Where to write the failure and duplicate ledgers of what would not be sent; None for nowhere.
        watch: Who is told.
    """
    paths = jobfile.input_files(loaded)
    target = loaded.job.issues()
    with tempfile.TemporaryDirectory(prefix="bulkissue-") as name:
        folder = Path(name)
        intake = _take_in(paths, loaded, folder, choices.expect_rows, watch)
        issued = history.issued_without_lock(loaded.state_dir, target)
        source, known, not_looked_up = folder / "input.parquet", None, 0
        if loaded.job.identifiers.resolve_customers:
            memory = customers.memory_of(loaded)
            known = memory.known()
            not_looked_up = memory.missing(plan.customers_of(source, intake, loaded.job)).height
        drawn = plan.draw(
            source,
            intake,
            loaded.job,
            issued,
            limit=choices.limit,
            out=folder / "plan.parquet",
            customers=known,
        )
        settled = plan.examples(folder / "plan.parquet", folder / "input.parquet")
        if out is not None:
            _write_unsent(folder, intake, target.text(), out)
        return Preview(intake, drawn, settled.to_dicts(), not_looked_up)


#: What asks the process to end; a closed terminal too, unless it was started to outlive it (nohup).
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[
    : 2 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 3
]


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Whoever takes SIGINT and SIGTERM within the block, afterwards it is who took them before."""
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            _take_signal(number, handler)


def _take_signal(number: signal.Signals, handler: "signal._HANDLER") -> None:
    if threading.current_thread() is threading.main_thread():  # elsewhere its owner takes the signals
        signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """
    Let no signal but SIGKILL end the process until the block ends.

    Books that are being written are worth a moment's patience; SIGKILL does no harm either.
    """
    with _signals_as_before():
        for number in _ENDING:
            _take_signal(number, signal.SIG_IGN)
        yield


def question(settings: Job, rows: int, requests: int, most: int) -> str:
    """What a person is asked before the first send; `most` rows stand in the largest batch."""
    return (
        f"Issue {settings.issues().describe()} to {rows} customers, in {requests} requests "
        f"to {settings.api.base_url}? One lost answer can make {most} of them unknown."
    )


@dataclass(frozen=True, slots=True)
class _Session:
    """One session of a run, with its target's lock held and its journal open for writing."""

    folder: Path
    manifest: Manifest
    loaded: jobfile.LoadedJob
    journal: Journal
    state: history.TargetState
    watch: Watch
    started: float

    def send(self, drawn: plan.Plan, credentials: Credentials, marks: bytearray | None = None) -> Result:
        """Send what the plan says and the marks leave, then settle."""
        self._enter("open", self._commits())
        runfolder.write_manifest(self.folder, msgspec.structs.replace(self.manifest, state="running", stop=None))
        settings = self.loaded.job
        rows = drawn.to_send if marks is None else plan.left(self.folder / "plan.parquet", drawn, marks)[0]
        logs.get().info("run.started", run=self.manifest.run_id, target=self.manifest.target, rows=rows)
        try:
            with _signals_as_before():
                halt = asyncio.run(self._dispatch(settings, drawn, credentials, marks, rows)) if rows else None
                return self.settle(halt)
        except BaseException:
            self.journal.leave()  # stays marked as open: what it lacks is not known here
            raise

    async def _dispatch(
        self,
        settings: Job,
        drawn: plan.Plan,
        credentials: Credentials,
        marks: bytearray | None,
        rows: int,
    ) -> Halt | None:
        limits, api = settings.api.limits, settings.api

        dispatch = Dispatch(
            batches=plan.batches(self.folder / "plan.parquet", drawn, marks),
            journal=self.journal,
            lanes=[lane_of(api) for _ in range(min(limits.lanes, drawn.requests))],
            make_auth=lambda pace: make_auth(api, credentials, lane_of(api), pace.slot),
            offer=offer_of(settings, self.manifest.run_id),
            guards=Guards(settings.guards),
            limits=limits,
            watch=lambda tally: self.watch.sending(tally, rows),
        )
        loop = asyncio.get_running_loop()

        def interrupt(*_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: all that is left is to write the books
                loop.call_soon_threadsafe(dispatch.interrupt)

        # Not the loop's own handlers: at its end it leaves SIGTERM to the kernel, before the books are written.
        for number in _ENDING:
            _take_signal(number, interrupt)
        return await dispatch.run()

    def settle(self, halt: Halt | None) -> Result:
        """Write ledgers, history and manifest from plan and journal, and close the journal; no signal disturbs it."""
        with _undisturbed():
            return self._settle(halt)

    def _settle(self, halt: Halt | None) -> Result:
        reached("sending.ended")
        ending = _ending(halt)
        self.journal.write(
            [Event("run.stopped" if halt else "run.completed", _now_ms(), {"reason": ending.reason if halt else ""})]
        )
        run, formats = _ledger_run(self.folder, self.manifest), self.loaded.job.output.formats
        try:
            books = ledgers.write(run, self.journal, ending, formats, self.folder)
            reached("ledgers.written")
            self.state.write_history(self.manifest.run_id, books.history)
            reached("history.written")
        except (OSError, pl.exceptions.PolarsError) as trouble:
            raise StateRefused(
                f"the books of run {self.manifest.run_id} cannot be written: {_of_the_disk(trouble)}",
                hint="free the disk or mend the folder's permissions, then bulkissue resume",
            ) from trouble
        for part in books.history:
            part.unlink()
        requests, attempts = self.journal.requests_and_attempts()
        state: runfolder.State = "completed" if halt is None else _STATE_OF_EXIT.get(halt.exit_code, "stopped")
        manifest = msgspec.structs.replace(
            self.manifest,
            state=state,
            exit_code=int(_exit_code(books, halt)),
            finished_at=_now_text(),
            seconds=round(self.manifest.seconds + time.monotonic() - self.started, 3),
            counts=books.counts(),
            reasons=books.failure_reasons(),
            requests=requests,
            attempts=attempts,
            ledgers=books.digests,
            stop=Stop(halt.reason, halt.message, int(halt.exit_code)) if halt else None,
        )
        manifest = report.publish(self.folder, manifest, self.journal, self.state.issued())
        commits = self._commits()
        self.journal.close()
        reached("journal.closed")
        runfolder.write_manifest(self.folder, manifest)
        reached("manifest.finished")
        self._enter("settled", commits)
        reached("run.settled")
        logs.get().info(
            "run.finished", run=manifest.run_id, state=state, exit_code=manifest.exit_code, **manifest.counts
        )
        return Result(self.folder, manifest)

    def _commits(self) -> int:
        return int(self.journal.meta()["commits"])

    def _enter(self, state: str, commits: int) -> None:
        self.state.register(
            history.Registered(
                self.manifest.run_id,
                str(self.folder),
                self.manifest.target,
                self.manifest.started_at,
                journal=True,
                state=state,
                commits=commits,
                file=identity(self.journal.path),
            )
        )


def _unknown(frames: Iterator[pl.DataFrame]) -> pl.DataFrame:
    chosen = [frame.filter(pl.col("_bi_outcome") == Outcome.UNKNOWN) for frame in frames]
    return pl.concat(chosen) if chosen else pl.DataFrame(schema=["_bi_place", "_bi_source_file", "_bi_row"])


def _halt_of(manifest: Manifest) -> Halt | None:
    """Why the run is not at its end, as it was last written; None where it is."""
    if manifest.stop is not None:
        return Halt(ExitCode(manifest.stop.exit_code), manifest.stop.reason, manifest.stop.message)
    if manifest.state == "completed":
        return None
    return Halt.by("guard.unfinished", exit_code=ExitCode.INTERRUPTED)


def _ending(halt: Halt | None) -> ledgers.Ending:
    return ledgers.Ending(completed=True) if halt is None else ledgers.Ending(False, halt.reason, halt.message)


def _exit_code(books: ledgers.Books, halt: Halt | None) -> ExitCode:
    if books.outcomes[Outcome.UNKNOWN]:
        return ExitCode.UNKNOWN_ROWS
    if halt is not None:
        return halt.exit_code
    if books.outcomes[Outcome.FAILED] or books.outcomes[Outcome.REJECTED]:
        return ExitCode.FAILED_ROWS
    return ExitCode.OK


def _take_in(
    paths: list[Path], loaded: jobfile.LoadedJob, folder: Path, expect_rows: int | None, watch: Watch
) -> Intake:
    intake = take_in(
        paths,
        base=loaded.base,
        settings=loaded.job.input,
        target=loaded.job.issues().text(),
        out=folder / "input.parquet",
    )
    watch.taken(intake)
    if expect_rows is not None and intake.rows != expect_rows:
        raise InputRefused(
            f"the input has {intake.rows} rows, --expect-rows says {expect_rows}: nothing was sent",
            hint="is this the right file, and the whole of it?",
        )
    return intake


def _look_customers_up(
    loaded: jobfile.LoadedJob, folder: Path, intake: Intake, credentials: Credentials, watch: Watch
) -> pl.LazyFrame | None:
    """Who is behind the input's identifiers, as far as the service knows; None where the job does not ask."""
    if not loaded.job.identifiers.resolve_customers:
        return None
    source, memory = folder / "input.parquet", customers.memory_of(loaded)
    missing = memory.missing(plan.customers_of(source, intake, loaded.job))
    with _signals_as_before():
        customers.look_up(
            missing,
            memory,
            loaded.job.api,
            credentials,
            name=lambda row: plan.name_of(source, row),
            tell=watch.looking_up,
        )
    return memory.known()


def _manifest(run_id: str, loaded: jobfile.LoadedJob, intake: Intake, choices: Choices, folder: Path) -> Manifest:
    return Manifest(
        run_id=run_id,
        job=loaded.job.job.name,
        action=loaded.job.job.action.value,
        target=loaded.job.issues().text(),
        base_url=loaded.job.api.base_url,
        state_dir=str(loaded.state_dir),
        started_at=_now_text(),
        rows=intake.rows,
        columns=intake.columns,
        inputs=tuple(
            InputDigest(
                file.name,
                str(file.path),
                file.kind,
                file.rows,
                file.size,
                file.sha256,
                file.encoding,
                file.delimiter,
                file.form,
                dict(file.columns),
                file.notes,
            )
            for file in intake.files
        ),
        digests={name: sha256(folder / name) for name in runfolder.KEPT},
        parent_run_id=choices.parent_run_id or next((run for file in intake.files for run in file.runs), None),
        rehearsal=choices.rehearsal,
        versions=runfolder.versions(),
    )


def _refuse_elsewhere(loaded: jobfile.LoadedJob, manifest: Manifest) -> None:
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


def _loaded_where_it_began(folder: Path, environ: Mapping[str, str]) -> jobfile.LoadedJob:
    """
    The job of a run, for going on with it towards the service and the memory that it began with.

    Raises:
        BulkissueError: The environment leads elsewhere, or the state folder is gone.
    """
    manifest = runfolder.read_manifest(folder)
    loaded = jobfile.load(folder / "job.toml", flags={}, environ=environ)
    _refuse_elsewhere(loaded, manifest)
    if loaded.job.api.base_url != manifest.base_url:
        raise SettingsRefused(
            f"run {manifest.run_id} sends to {manifest.base_url}, the environment says {loaded.job.api.base_url}",
            hint="unset BULKISSUE_BASE_URL; one goes on with a run only where it began",
        )
    history.require_state(loaded.state_dir)
    return loaded


def _reopen(folder: Path, manifest: Manifest, state: history.TargetState) -> Journal:
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


def _look(folder: Path, manifest: Manifest, state: history.TargetState) -> Journal | None:
    """The run's journal for reading; None where it never had one, and so has sent nothing."""
    path = folder / "journal.db"
    entry = state.run(manifest.run_id)
    if not path.exists() and manifest.state == "planned" and (entry is None or not entry.journal):
        return None
    return Journal.look(path, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])


def _hold(
    folder: Path,
    run_id: str,
    journal: Journal,
    marks: bytearray,
    state: history.TargetState,
    *,
    known: pl.LazyFrame | None,
) -> tuple[int, list[Held]]:
    """
    Hold every unsent row against history; those another run issued meanwhile leave their batch.

    Returns:
        How many did, at this resume or an earlier one, and the entries that are new.

    Raises:
        StateRefused: History knows that this very run issued a row which its journal calls unsent.
    """
    before = journal.held()
    for item in before:
        marks[item.row] = SENT
    planned = folder / "plan.parquet"
    entry = state.run(run_id)
    if (entry is None or entry.state != "lost") and plan.hold(planned, marks, state.issued(only=run_id), None).height:
        raise StateRefused(
            f"{journal.path} is older than what run {run_id} did: history knows of rows it issued that are unsent here",
            hint="put back the run folder itself; a copy of it made earlier will not do",
        )
    held = plan.hold(planned, marks, state.issued(without=run_id), known)
    entries = [Held(row, reason, message) for row, reason, message in held.iter_rows()]
    for one in entries:
        marks[one.row] = SENT
    return len(before) + len(entries), entries


def _of_the_disk(trouble: Exception) -> str:
    """What the system said of a file that could not be written. Only its own words: polars' may hold a row."""
    if isinstance(trouble, OSError):
        return f"{trouble.strerror}: {trouble.filename}" if trouble.filename else str(trouble)
    return type(trouble).__name__


def _ledger_run(folder: Path, manifest: Manifest) -> ledgers.Run:
    return ledgers.Run(folder, manifest.run_id, manifest.target, manifest.columns, manifest.rows)


def _write_unsent(folder: Path, intake: Intake, target: str, out: Path) -> None:
    """The failure and duplicate ledgers of a dry run: the rows its plan settles."""
    run_id = "dry-run"
    journal = Journal.create(folder / "journal.db", run_id=run_id, plan_sha256="")
    run = ledgers.Run(folder, run_id, target, intake.columns, intake.rows)
    names = sorted({LEDGER_OF[outcome] for outcome in (Outcome.REJECTED, Outcome.DUPLICATE)})
    try:
        frames = ledgers.derive(run, journal, ledgers.Ending(completed=False))
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ledgers.writing(run, out, names) as append:
            for frame in frames:
                append(frame.filter(frame["_bi_batch"].is_null()))
    finally:
        journal.close()


def _now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
