"""
Resume: go on with an interrupted, stopped or crashed run.

It must never send a row that was sent before, unless every earlier sending is proven void, nor one that another run
issued meanwhile.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from bulkissue.commands import rehearsal
from bulkissue.commands.confirmation import Confirmation, question
from bulkissue.commands.preparation import refuse_other_names
from bulkissue.commands.recovery import recover
from bulkissue.commands.reopening import closed_on_trouble, loaded_where_it_began, reopened, signed_in
from bulkissue.commands.session import Result, Session, Watch
from bulkissue.errors import StateRefused
from bulkissue.plan import plan
from bulkissue.settle import customers
from bulkissue.state.entries import SENT, Held


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
    with rehearsal.going_on(folder, environ) as own:
        return _resume(folder, confirmation, own, watch, say)


def _resume(
    folder: Path, confirmation: Confirmation, environ: Mapping[str, str], watch: Watch, say: Callable[[str], None]
) -> Result:
    loaded = loaded_where_it_began(folder, environ)
    with reopened(folder, loaded, watch) as session:
        manifest, journal = session.manifest, session.journal
        with closed_on_trouble(journal):
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
                credentials = signed_in(loaded, environ, watch)
            # Only now: a resume that is refused changes nothing.
            journal.write(newly)
        if not rows:
            say("nothing is left to send")
            return session.settle(None)
        return session.send(drawn, credentials, marks)


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
