"""
Reopening: a run as it stands, with its target's lock held, for commands that go on with it or settle it.

It must never open a run towards another service, another target or another memory than it began with.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bulkissue import logs
from bulkissue.commands.session import Session, Watch
from bulkissue.errors import ExitCode, SettingsRefused, StateRefused
from bulkissue.job import loading
from bulkissue.job.credentials import Credentials, read_credentials
from bulkissue.job.target import parse
from bulkissue.send.guards import Halt
from bulkissue.state import run_folder
from bulkissue.state.protocols import RunJournal, TargetMemory
from bulkissue.state.registered import Registered
from bulkissue.state.run_folder import Manifest
from bulkissue.state.store import look_at_journal, store_at


def signed_in(loaded: loading.LoadedJob, environ: Mapping[str, str], watch: Watch) -> Credentials:
    """The run's credentials; what a person should mend of the files they come from is told."""
    credentials = read_credentials(loaded.job, environ)
    for warning in credentials.warnings:
        watch.warned(warning)
    return credentials


@contextmanager
def standing(folder: Path) -> Iterator[tuple[Manifest, TargetMemory]]:
    """A run as it stands: its target's lock and its own held, its folder proven unchanged."""
    manifest = run_folder.read_manifest(folder)
    run_folder.refuse_purged(manifest)
    state_dir, target, run_id = Path(manifest.state_dir), parse(manifest.target), manifest.run_id
    logs.bind(run_id=run_id, job=manifest.job)
    store_at(state_dir).require()
    with store_at(state_dir).locked(target, run_id) as state, run_folder.run_locked(folder, run_id):
        manifest = run_folder.read_manifest(folder)
        run_folder.refuse_changed(folder, manifest)
        _refuse_second_copy(folder, state.run(run_id))
        with logs.kept_in(folder):
            yield manifest, state


def _refuse_second_copy(folder: Path, entry: Registered | None) -> None:
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
def reopened(folder: Path, loaded: loading.LoadedJob, watch: Watch) -> Iterator["Session"]:
    """A run as it stands, its journal open for writing."""
    started = time.monotonic()
    with standing(folder) as (manifest, state):
        yield Session(folder, manifest, loaded, reopen(folder, manifest, state), state, watch, started)


@contextmanager
def closed_on_trouble(journal: RunJournal) -> Iterator[None]:
    """Let the journal go where the block fails."""
    try:
        yield
    except BaseException:
        journal.close()
        raise


def refuse_elsewhere(loaded: loading.LoadedJob, manifest: Manifest) -> None:
    """Refuse to go on with a run towards another target, or with another memory, than it began with."""
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


def loaded_where_it_began(folder: Path, environ: Mapping[str, str]) -> loading.LoadedJob:
    """
    The job of a run, for going on with it towards the service and the memory that it began with.

    Raises:
        BulkissueError: The environment leads elsewhere, or the state folder is gone.
    """
    manifest = run_folder.read_manifest(folder)
    loaded = loading.load(folder / "job.toml", flags={}, environ=environ)
    refuse_elsewhere(loaded, manifest)
    if loaded.job.api.base_url != manifest.base_url and not manifest.rehearsal:  # whose stand-in has a new port
        raise SettingsRefused(
            f"run {manifest.run_id} sends to {manifest.base_url}, the environment says {loaded.job.api.base_url}",
            hint="unset BULKISSUE_BASE_URL; one goes on with a run only where it began",
        )
    store_at(loaded.state_dir).require()
    return loaded


def reopen(folder: Path, manifest: Manifest, state: TargetMemory) -> RunJournal:
    """
    The run's journal, open for writing; made where the run ended before it had one.

    Raises:
        StateRefused: It is missing, or older than what the run did, and the run may have sent something.
    """
    path = folder / "journal.db"
    entry, store = state.run(manifest.run_id), store_at(Path(manifest.state_dir))
    if not path.exists() and manifest.state == "planned" and (entry is None or not entry.journal):
        # Ended between its plan and its journal: it has sent nothing.
        return store.create_journal(folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    journal = store.reopen_journal(folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    if entry is not None:
        with closed_on_trouble(journal):
            entry.refuse_copy(path, int(journal.meta()["commits"]))
    return journal


def look(folder: Path, manifest: Manifest, state: TargetMemory) -> RunJournal | None:
    """The run's journal for reading; None where it never had one, and so has sent nothing."""
    path = folder / "journal.db"
    entry = state.run(manifest.run_id)
    if not path.exists() and manifest.state == "planned" and (entry is None or not entry.journal):
        return None
    return look_at_journal(folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])


def halt_of(manifest: Manifest) -> Halt | None:
    """Why the run is not at its end, as it was last written; None where it is."""
    if manifest.stop is not None:
        return Halt(ExitCode(manifest.stop.exit_code), manifest.stop.reason, manifest.stop.message)
    if manifest.state == "completed":
        return None
    return Halt.by("guard.unfinished", exit_code=ExitCode.INTERRUPTED)
