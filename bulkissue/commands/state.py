"""
The state folder held against the run folders beside it: what it does not know, as after a restored backup.

It must never let a run be forgotten whose folder is there: journals are the truth, and come into history from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bulkissue.commands.recovery import recover
from bulkissue.errors import StateRefused
from bulkissue.failpoint import reached
from bulkissue.job.loading import LoadedJob
from bulkissue.job.target import Target, parse, same_target
from bulkissue.state.registered import Registered
from bulkissue.state.run_folder import Manifest, list_runs, new_run_id, read_manifest
from bulkissue.state.store import store_at

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Unknown:
    """
    Runs that may have sent something, and are not in the state folder's register.

    Attributes:
        forgotten: Of the target, begun under this state folder.
        others: Of other targets, begun under this state folder.
        elsewhere: Of the target, begun under another state folder since this one was made.
        beyond: The greatest number of a registered run, where that is more than the state folder counted.
    """

    forgotten: tuple[Manifest, ...]
    others: tuple[Manifest, ...]
    elsewhere: tuple[Manifest, ...]
    beyond: int
    folders: dict[str, Path]

    def says(self, state_dir: Path) -> list[str]:
        """What is wrong, in sentences; none where all agree."""
        told = []
        if self.forgotten or self.others:
            runs, what = (self.forgotten, "of this target") if self.forgotten else (self.others, "of other targets")
            names = _named([manifest.run_id for manifest in runs])
            told.append(
                f"the state folder {state_dir} does not know {len(runs)} runs {what} "
                f"that were begun under it ({names}): it is older than they are, as a restored backup is"
            )
        if self.beyond:
            told.append(
                f"the state folder {state_dir} counts fewer runs than it knows ({self.beyond}): parts of it are of "
                "different ages, as where a backup was half restored"
            )
        if self.elsewhere:
            run = self.elsewhere[0]
            told.append(
                f"{len(self.elsewhere)} runs of this target ({_named([one.run_id for one in self.elsewhere])}) were "
                f"begun under another state folder, {run.state_dir}: each of the two forgets whom the other issued"
            )
        return told


def examine(state_dir: Path, runs_dirs: Sequence[Path], target: Target, *, however_old: bool = False) -> Unknown:
    """
    What the run folders tell of more than the state folder knows.

    Rehearsals, and runs from before the state folder was made anew (`--init-state`), do not count.

    Args:
        state_dir: The state folder.
        runs_dirs: Where run folders are.
        target: Whose runs.
        however_old: Count runs from before the state folder was made as well.

    Raises:
        StateRefused: The state folder cannot be read.
    """
    store = store_at(state_dir)
    mark, known = store.mark(), store.known_runs()
    forgotten: list[Manifest] = []
    others: list[Manifest] = []
    elsewhere: list[Manifest] = []
    folders = {}
    strange = [folder for runs_dir in runs_dirs for folder in list_runs(runs_dir)[::-1] if folder.name not in known]
    told = [(folder, _that_may_have_sent(folder)) for folder in strange]
    # Read anew: a run of another target may have begun since, and registers before it sends.
    known = store.known_runs() if strange else known
    for folder, manifest in told:
        if mark is None or manifest is None or folder.name in known:
            continue
        ours = same_target(manifest.target, target.text())
        later = however_old or manifest.started_at >= mark.began_at
        if manifest.state_identity:
            here = manifest.state_identity == mark.identity
        else:
            here = Path(manifest.state_dir).resolve() == state_dir.resolve() and later
        if here:
            (forgotten if ours else others).append(manifest)
        elif ours and later:
            elsewhere.append(manifest)
        folders[manifest.run_id] = folder
    latest = store.latest_run()
    beyond = latest.number if latest is not None and latest.number > store.begun() else 0
    return Unknown(tuple(forgotten), tuple(others), tuple(elsewhere), beyond, folders)


def refuse_forgotten(loaded: LoadedJob, target: Target) -> None:
    """
    Refuse to send where run folders tell of more than the state folder remembers.

    Raises:
        StateRefused: There is such a run; nothing may be sent to its customers twice.
    """
    found = examine(loaded.state_dir, [loaded.runs_dir], target)
    for told in found.says(loaded.state_dir):
        other = f"lead to {found.elsewhere[0].state_dir} by state_dir; or " if found.elsewhere else ""
        raise StateRefused(told, hint=f"{other}bulkissue state rebuild {loaded.path} takes them in from their journals")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Which runs were taken in, and the numbers of those that were begun and are nowhere to be found."""

    taken: tuple[str, ...]
    missing: tuple[int, ...]


def rebuild(loaded: LoadedJob, runs_dirs: Sequence[Path] = (), *, without_missing: bool = False) -> Rebuilt:
    """
    Take runs that the state folder does not know in from their journals; harmless to say again.

    Of the job's target those from before the state folder was made as well: who asks for it wants them remembered.

    Args:
        loaded: A job; its state folder, its target, and its `runs_dir`.
        runs_dirs: Where run folders of other jobs with this state folder are.
        without_missing: The user's word that runs whose folders are nowhere to be found issued nothing that matters.

    Raises:
        StateRefused: A journal is missing or cannot be trusted, or a run is missing; the others are taken in.
        TargetLocked: Another run holds a target.
    """
    state_dir, target = loaded.state_dir, loaded.job.issues()
    store_at(state_dir).require()
    found = examine(state_dir, [loaded.runs_dir, *runs_dirs], target, however_old=True)
    here = {manifest.run_id for manifest in (*found.forgotten, *found.others)}
    # The job's own target last: where it is refused, all others are taken in.
    everything = (*found.others, *found.forgotten, *found.elsewhere)
    for text in sorted({manifest.target for manifest in everything}, key=lambda one: same_target(one, target.text())):
        with store_at(state_dir).locked(parse(text), new_run_id()) as state:
            for manifest in everything:
                if manifest.target == text:
                    # As one that crashed: `recover` reads its journal, now or at the next start, if this is killed.
                    state.register(
                        Registered(
                            manifest.run_id,
                            str(found.folders[manifest.run_id].resolve()),
                            manifest.target,
                            manifest.started_at,
                            journal=True,
                            number=manifest.number if manifest.run_id in here else 0,
                        )
                    )
                    reached("rebuild.registered")
            recover(state)
            reached("rebuild.recovered")
    taken = tuple(sorted(manifest.run_id for manifest in everything))
    numbers = {run.number for run in store_at(state_dir).runs()}
    counted = store_at(state_dir).begun()
    latest = max(numbers | {counted})
    missing = tuple(sorted(set(range(counted + 1, latest)) - numbers))
    if missing and not without_missing:
        raise StateRefused(
            f"{len(taken)} runs taken in; {len(missing)} more were begun under {state_dir} and are not in "
            f"{', '.join(str(folder) for folder in (loaded.runs_dir, *runs_dirs))} "
            f"(numbers {_named([str(number) for number in missing])})",
            hint="name the runs_dir of the other jobs with --runs-dir; or say --without-missing if their folders are "
            "gone for good, or never came to be: their customers may then be issued again",
        )
    store_at(state_dir).count_up_to(latest)
    reached("rebuild.counted")
    return Rebuilt(taken, missing)


def check(loaded: LoadedJob) -> list[str]:
    """
    How state folder, register and run folders of the job's target disagree, in sentences; none where all agree.

    Raises:
        StateRefused: The state folder is missing or cannot be read.
        TargetLocked: A run holds the target.
    """
    target = loaded.job.issues()
    store_at(loaded.state_dir).require()
    with store_at(loaded.state_dir).locked(target, new_run_id()) as state:
        told = examine(loaded.state_dir, [loaded.runs_dir], target).says(loaded.state_dir)
        for run in state.runs():
            journal = Path(run.run_dir) / "journal.db"
            if run.state == "open" and run.journal and not journal.exists():
                told.append(f"run {run.run_id} may have sent something, and {journal} is missing")
            if run.state not in {"open", "lost"} and not state.remembers(run):
                told.append(f"the history of run {run.run_id} is missing, or is not what was written last")
        return told


def backup(loaded: LoadedJob, out: Path) -> int:
    """A consistent copy of the job's state folder, whoever is sending; see `state.folder.back_up`."""
    return store_at(loaded.state_dir).back_up(out)


def _that_may_have_sent(folder: Path) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except StateRefused:
        return None  # a folder without a manifest has not been registered, and so has sent nothing
    planned = manifest.state == "planned" and not (folder / "journal.db").exists()
    return None if manifest.rehearsal or planned else manifest


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
