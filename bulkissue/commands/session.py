"""
A session of a run: send what is left, and write the books; with the target's lock held and the journal open.

A run has one session, and one more for each resume, resolve and reconcile. It must never end without its books unless
the disk or the process does.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from bulkissue import logs, signals
from bulkissue.commands.metrics import Metrics
from bulkissue.errors import BulkissueError, ExitCode, StateRefused
from bulkissue.failpoint import reached
from bulkissue.files import identity, sha256
from bulkissue.http.auth import make_auth
from bulkissue.input.intake import Intake
from bulkissue.job import loading
from bulkissue.job.credentials import Credentials
from bulkissue.job.inbox import move_taken
from bulkissue.job.model import Job
from bulkissue.outcomes import Outcome
from bulkissue.plan import plan
from bulkissue.results import derivation, ledgers, report
from bulkissue.send.dispatch import Dispatch
from bulkissue.send.guards import Counters, Guards, Halt
from bulkissue.send.reader import lane_of
from bulkissue.service.routes import promotion_or_series
from bulkissue.state import run_folder
from bulkissue.state.entries import Event
from bulkissue.state.protocols import RunJournal, TargetMemory
from bulkissue.state.registered import Registered
from bulkissue.state.reserve import reserved
from bulkissue.state.run_folder import Manifest, Stop
from bulkissue.state.store import store_at

_STATE_OF_EXIT: dict[ExitCode, run_folder.State] = {ExitCode.INTERRUPTED: "interrupted"}


@dataclass(frozen=True, slots=True)
class Watch:
    """
    Who is told what while a run goes on; each may be left out.

    Attributes:
        taken: The input was read.
        warned: Something that a person should mend, such as a secret's file that others can read.
        planned: The plan stands; with the run's folder (a temporary one on a dry run).
        sending: The counters have changed; with the rows to send in all.
        asking: What is being asked of the service that issues nothing, in words; how many were asked, of how many.
        phase: Something else is being done from now on, in a word or two; empty while a person is asked.
    """

    taken: Callable[[Intake], None] = lambda _: None
    warned: Callable[[str], None] = lambda _: None
    planned: Callable[[plan.Plan, Path], None] = lambda _plan, _folder: None
    sending: Callable[[Counters, int], None] = lambda _counters, _rows: None
    asking: Callable[[str, int, int], None] = lambda _what, _asked, _of: None
    phase: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Result:
    """How a run stands: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return ExitCode(self.manifest.exit_code if self.manifest.exit_code is not None else ExitCode.INTERNAL)


@dataclass(frozen=True, slots=True)
class Session:
    """One session of a run, with its target's lock held and its journal open for writing."""

    folder: Path
    manifest: Manifest
    loaded: loading.LoadedJob
    journal: RunJournal
    state: TargetMemory
    watch: Watch
    started: float

    def send(self, drawn: plan.Plan, credentials: Credentials, marks: bytearray | None = None) -> Result:
        """Send what the plan says and the marks leave, then settle."""
        self._enter("open", self._commits())
        run_folder.write_manifest(self.folder, msgspec.structs.replace(self.manifest, state="running", stop=None))
        settings = self.loaded.job
        rows = drawn.to_send if marks is None else plan.left(self.folder / "plan.parquet", marks)[0]
        logs.get().info("run.started", target=self.manifest.target, rows=rows)
        try:
            with signals.as_before():
                halt = asyncio.run(self._dispatch(settings, drawn, credentials, marks, rows)) if rows else None
                return self.settle(halt)
        except BaseException as trouble:
            if isinstance(trouble, BulkissueError):
                trouble.run_dir = str(self.folder)
                if self._has_unanswered():
                    trouble.exit_code = ExitCode.UNKNOWN_ROWS
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
        metrics = Metrics(self.loaded)

        def tell(counters: Counters) -> None:
            self.watch.sending(counters, rows)
            metrics.sending(counters)

        with reserved(self.folder) as reserve:
            dispatch = Dispatch(
                batches=plan.batches(self.folder / "plan.parquet", drawn, marks),
                journal=self.journal,
                lanes=[lane_of(api) for _ in range(min(limits.concurrency, drawn.requests))],
                make_auth=lambda pace: make_auth(api, credentials, lane_of(api), pace.slot),
                to_issue=promotion_or_series(settings, self.manifest.run_id),
                guards=Guards(settings.guards),
                limits=limits,
                reserve=reserve,
                allowance=store_at(self.loaded.state_dir).allowance(api.host, credentials.name),
                watch=tell,
            )
            signals.call(dispatch.interrupt)
            return await dispatch.run()

    def settle(self, halt: Halt | None) -> Result:
        """Write ledgers, history and manifest from plan and journal, and close the journal; no signal disturbs it."""
        with signals.ignored():
            return self._settle(halt)

    def _settle(self, halt: Halt | None) -> Result:
        reached("sending.ended")
        self.watch.phase("writing ledgers")
        ending = ending_of(halt)
        self.journal.write(
            [Event("run.stopped" if halt else "run.completed", now_ms(), {"reason": ending.reason if halt else ""})]
        )
        run, formats = derivation.Run.of(self.folder, self.manifest), self.loaded.job.output.formats
        try:
            books = ledgers.write(run, self.journal, ending, formats, self.folder)
            reached("ledgers.written")
            lines = self.state.digests.of_run(books.history, self.folder)
            remembered = self.state.write_history(self.manifest.run_id, lines)
            reached("history.written")
        except (OSError, pl.exceptions.PolarsError) as trouble:
            raise StateRefused(
                f"the books of run {self.manifest.run_id} cannot be written: {_of_the_disk(trouble)}",
                hint="free the disk or mend the folder's permissions, then bulkissue resume",
            ) from trouble
        for part in books.history:
            part.unlink()
        requests, attempts = self.journal.requests_and_attempts()
        state: run_folder.State = "completed" if halt is None else _STATE_OF_EXIT.get(halt.exit_code, "stopped")
        manifest = msgspec.structs.replace(
            self.manifest,
            state=state,
            exit_code=int(_exit_code(books, halt)),
            finished_at=now_text(),
            seconds=round(self.manifest.seconds + time.monotonic() - self.started, 3),
            counts=books.counts(),
            reasons=books.failure_reasons(),
            in_doubt=books.in_doubt,
            left_out=tuple(run_folder.LeftOut(*kind, rows) for kind, rows in sorted(books.left_out.items())),
            requests=requests,
            attempts=attempts,
            ledgers=books.digests,
            stop=Stop(halt.reason, halt.message, int(halt.exit_code)) if halt else None,
        )
        manifest = report.publish(self.folder, manifest, self.journal, self.state.issued().lines)
        commits = self._commits()
        self.journal.close()
        reached("journal.closed")
        run_folder.write_manifest(self.folder, manifest)
        reached("manifest.finished")
        self._enter("settled", commits, remembered)
        reached("run.settled")
        Metrics(self.loaded).ended(manifest)
        self._move_taken(manifest)
        logs.get().info("run.finished", state=state, exit_code=manifest.exit_code, **manifest.counts)
        return Result(self.folder, manifest)

    def _move_taken(self, manifest: Manifest) -> None:
        """Move the input's files where the job wants that, once nothing of them is open; what cannot be is said."""
        settings = self.loaded.job.input
        open_rows = manifest.counts.get(Outcome.UNKNOWN) or manifest.reasons.get("guard.limit")
        if settings.done is None or manifest.rehearsal or manifest.state != "completed" or open_rows:
            return
        taken = [(Path(file.path), file.sha256) for file in manifest.inputs if file.kind == "plain"]
        unchanged = [path for path, digest in taken if path.is_file() and sha256(path) == digest]
        try:
            for path in move_taken(unchanged, settings):
                logs.get().info("input.moved", to=str(path))
        except OSError as trouble:
            logs.get().warning("input.not_moved", why=f"{trouble.strerror}: {trouble.filename}")

    def _has_unanswered(self) -> bool:
        """Whether something was sent of which the journal does not say what came of it."""
        with suppress(StateRefused):  # the journal is what the trouble is about
            return any(ended is None and void is None for *_, void, ended in self.journal.outcomes())
        return True

    def _commits(self) -> int:
        return int(self.journal.meta()["commits"])

    def _enter(self, state: str, commits: int, history_file: str = "") -> None:
        self.state.register(
            Registered(
                self.manifest.run_id,
                str(self.folder),
                self.manifest.target,
                self.manifest.started_at,
                journal=True,
                state=state,
                commits=commits,
                file=identity(self.journal.path),
                number=self.manifest.number,
                history_file=history_file,
            )
        )


def _exit_code(books: ledgers.Books, halt: Halt | None) -> ExitCode:
    if books.outcomes[Outcome.UNKNOWN]:
        return ExitCode.UNKNOWN_ROWS
    if halt is not None:
        return halt.exit_code
    if books.outcomes[Outcome.FAILED] or books.outcomes[Outcome.REJECTED]:
        return ExitCode.FAILED_ROWS
    return ExitCode.OK


def ending_of(halt: Halt | None) -> derivation.Ending:
    """How the run stands, for the rows that were not sent."""
    return derivation.Ending(completed=True) if halt is None else derivation.Ending(False, halt.reason, halt.message)


def _of_the_disk(trouble: Exception) -> str:
    """What the system said of a file that could not be written. Only its own words: polars' may hold a row."""
    if isinstance(trouble, OSError):
        return f"{trouble.strerror}: {trouble.filename}" if trouble.filename else str(trouble)
    return type(trouble).__name__


def now_text() -> str:
    """Now, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_ms() -> int:
    """Now, in epoch milliseconds."""
    return time.time_ns() // 1_000_000
