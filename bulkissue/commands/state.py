"""
The state folder held against the run folders beside it: runs that it does not know, as after a restored backup.

It must never let a run be forgotten whose folder is there: journals are the truth, and come into history from there.
"""

from pathlib import Path

from bulkissue.commands.recovery import recover
from bulkissue.errors import StateRefused
from bulkissue.job.loading import LoadedJob
from bulkissue.job.target import Target, same_target
from bulkissue.state import history
from bulkissue.state.run_folder import Manifest, list_runs, new_run_id, read_manifest


def forgotten(state: history.TargetState, loaded: LoadedJob, target: Target) -> list[Path]:
    """
    Run folders of a target that were begun under this state folder, may have sent, and are not in its register.

    Rehearsals, and runs from before the state folder was made anew (`--init-state`), do not count.

    Args:
        state: The target's state, locked.
        loaded: Its `runs_dir` is looked through.
        target: Whose runs.

    Raises:
        StateRefused: The state folder cannot be read.
    """
    known = {run.run_id for run in state.runs()}
    began = history.began_at(loaded.state_dir)
    unknown = [folder for folder in list_runs(loaded.runs_dir) if folder.name not in known]
    return [folder for folder in unknown if _is_of(folder, loaded.state_dir, target, began)]


def refuse_forgotten(state: history.TargetState, loaded: LoadedJob, target: Target) -> None:
    """
    Refuse to send where run folders tell of more than the state folder remembers.

    Raises:
        StateRefused: There is such a run; nothing may be sent to its customers twice.
    """
    folders = forgotten(state, loaded, target)
    if folders:
        raise StateRefused(
            f"the state folder {loaded.state_dir} does not know {len(folders)} runs of this target whose folders are "
            f"in {loaded.runs_dir} ({folders[0].name}): it is older than they are, as a restored backup is",
            hint=f"bulkissue state rebuild {loaded.path} takes them in from their journals",
        )


def rebuild(loaded: LoadedJob) -> list[str]:
    """
    Take runs that the state folder does not know in from their journals; harmless to say again.

    Returns:
        The runs' ids.

    Raises:
        StateRefused: A journal is missing or cannot be trusted; the runs before it are taken in.
        TargetLocked: Another run holds the target.
    """
    target = loaded.job.issues()
    history.require_state(loaded.state_dir)
    with history.locked(loaded.state_dir, target, new_run_id()) as state:
        folders = forgotten(state, loaded, target)
        for folder in reversed(folders):
            manifest = read_manifest(folder)
            # As one that crashed: `recover` reads its journal, now or at the next start, if this is killed.
            state.register(
                history.Registered(
                    manifest.run_id, str(folder.resolve()), manifest.target, manifest.started_at, journal=True
                )
            )
        recover(state)
    return [folder.name for folder in reversed(folders)]


def check(loaded: LoadedJob) -> list[str]:
    """
    The runs of the job's target that the state folder does not know; none where all agree.

    Raises:
        StateRefused: The state folder is missing or cannot be read.
        TargetLocked: A run holds the target.
    """
    target = loaded.job.issues()
    history.require_state(loaded.state_dir)
    with history.locked(loaded.state_dir, target, new_run_id()) as state:
        return [folder.name for folder in reversed(forgotten(state, loaded, target))]


def _is_of(folder: Path, state_dir: Path, target: Target, began: str) -> bool:
    try:
        manifest: Manifest = read_manifest(folder)
    except StateRefused:
        return False  # a folder without a manifest has not been registered, and so has sent nothing
    return (
        not manifest.rehearsal
        and manifest.started_at >= began
        and (manifest.state != "planned" or (folder / "journal.db").exists())
        and Path(manifest.state_dir).resolve() == state_dir.resolve()
        and same_target(manifest.target, target.text())
    )
