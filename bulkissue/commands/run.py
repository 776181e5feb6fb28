"""
Run: execute a job over its input files.

It holds the target's lock from before history is read until it is written, and must never send anything outside of it.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from bulkissue import logs
from bulkissue.commands.confirmation import Confirmation, question
from bulkissue.commands.metrics import Metrics
from bulkissue.commands.preparation import Choices, look_customers_up, manifest_of, refuse_other_names, take_input
from bulkissue.commands.recovery import recover
from bulkissue.commands.reopening import signed_in
from bulkissue.commands.session import Result, Session, Watch
from bulkissue.commands.state import refuse_forgotten
from bulkissue.failpoint import reached
from bulkissue.files import write_whole
from bulkissue.job import loading
from bulkissue.job.inbox import input_files
from bulkissue.plan import plan
from bulkissue.results import workbooks
from bulkissue.state import run_folder
from bulkissue.state.registered import Registered
from bulkissue.state.store import store_at


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
    paths = input_files(loaded)
    Metrics(loaded)  # refuses what is not installed before anything else is done
    if "xlsx" in loaded.job.output.formats:
        workbooks.require_writer()
    credentials = signed_in(loaded, environ, watch)
    target = loaded.job.issues()
    run_id = run_folder.new_run_id()
    logs.bind(run_id=run_id, job=loaded.job.job.name)
    # A rehearsal's state folder is new each time: it has nothing to forget.
    store_at(loaded.state_dir).open(loaded.runs_dir, init=choices.init_state or choices.rehearsal)
    with store_at(loaded.state_dir).locked(target, run_id) as state, ExitStack() as held:
        reached("state.opened")
        folder = run_folder.make_run_folder(loaded.runs_dir, run_id)
        held.enter_context(run_folder.run_locked(folder, run_id))
        reached("folder.made")
        held.enter_context(logs.kept_in(folder))
        try:
            write_whole(folder / "job.toml", loading.effective_toml(loaded))
            watch.phase("reading input")
            intake = take_input(paths, loaded, folder, choices.expect_rows, watch)
            reached("input.taken")
            state.digest_old_history()
            recover(state)
            refuse_forgotten(loaded, target)
            watch.phase("planning")
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
            watch.phase("")
            watch.planned(drawn, folder)
            if drawn.to_send:
                confirmation.obtain(
                    question(loaded.job, drawn.to_send, drawn.requests, plan.largest(drawn, loaded.job))
                )
        except BaseException:
            run_folder.remove_unsent(folder)  # not yet registered, so nothing can have been sent
            raise
        with store_at(loaded.state_dir).beginning() as number:
            reached("number.taken")
            manifest = manifest_of(run_id, number, loaded, intake, choices=choices, drawn=drawn, folder=folder)
            run_folder.write_manifest(folder, manifest)
            reached("manifest.written")
            registered = Registered(run_id, str(folder), target.text(), manifest.started_at, number=number)
            state.register(registered)
        reached("run.registered")
        journal = store_at(loaded.state_dir).create_journal(
            folder, run_id=run_id, plan_sha256=manifest.digests["plan.parquet"]
        )
        reached("journal.made")
        state.register(msgspec.structs.replace(registered, journal=True))
        session = Session(folder, manifest, loaded, journal, state, watch, started)
        return session.send(drawn, credentials)
