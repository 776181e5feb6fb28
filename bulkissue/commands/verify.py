"""
Verify: prove a run's books again, from its plan and journal alone.

Changes nothing in the run folder. It must never pass a ledger that is not what plan and journal say.
"""

import tempfile
from pathlib import Path

from bulkissue.errors import BulkissueError, StateRefused
from bulkissue.files import sha256
from bulkissue.results import derivation, ledgers
from bulkissue.state import run_folder
from bulkissue.state.run_folder import Manifest
from bulkissue.state.store import look_at_journal


def verify(folder: Path) -> tuple[Manifest, list[str]]:
    """
    Prove conservation and digests.

    Returns:
        The manifest, and what is wrong, a sentence each; empty where the books are sound.

    Raises:
        StateRefused: The run has no ledgers yet, or its manifest cannot be read.
    """
    manifest = run_folder.read_manifest(folder)
    if manifest.exit_code is None or manifest.state == "running":
        raise StateRefused(
            f"run {manifest.run_id} has not come to its end: its ledgers are not written yet",
            hint=f"bulkissue resume {manifest.run_id}, where no process works on it any more",
        )
    wrong = [
        f"{name} is missing or not as it was when the run was planned"
        for name, digest in manifest.digests.items()
        if _digest(folder / name) != digest
    ]
    wrong += [
        f"{name} is missing or was changed after it was written"
        for name, ledger in manifest.ledgers.items()
        if _digest(folder / name) != ledger["sha256"]
    ]
    if not any(name in message for message in wrong for name in manifest.digests):
        wrong += _derived_again(folder, manifest)
    return manifest, wrong


def removals(manifest: Manifest) -> list[str]:
    """What was removed from the run's folder, a sentence each."""
    return [
        f"purged at {one.at}: who the customers were is not known any more; counts and proofs stay"
        if one.by == "purge"
        else f"{one.rows:,} rows were erased by request at {one.at}"
        for one in manifest.removals
    ]


def changed_inputs(manifest: Manifest) -> list[str]:
    """
    Which input files are not what was read any more, a sentence each.

    No fault of the books: an inbox goes on, and a ledger that was retried may have been settled since. Who hands the
    books over with the input should know.
    """
    return [
        f"the input {file.path} is {'not as it was read' if Path(file.path).exists() else 'not there any more'}"
        for file in manifest.inputs
        if _digest(Path(file.path)) != file.sha256
    ]


def _derived_again(folder: Path, manifest: Manifest) -> list[str]:
    """What differs when the ledgers are made once more."""
    run = derivation.Run.of(folder, manifest)
    stop = manifest.stop
    ending = derivation.Ending(completed=True) if stop is None else derivation.Ending(False, stop.reason, stop.message)
    try:
        journal = look_at_journal(folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
        try:
            with tempfile.TemporaryDirectory(prefix="bulkissue-") as scratch:
                books = ledgers.write(run, journal, ending, (), Path(scratch))
        finally:
            journal.leave()
    except BulkissueError as trouble:
        return [trouble.message]
    wrong = []
    if books.counts() != manifest.counts:
        wrong.append(f"plan and journal give {books.counts()}, {run_folder.MANIFEST} says {manifest.counts}")
    if sum(books.left_out.values()) != sum(one.rows for one in manifest.left_out):
        wrong.append(f"duplicate.csv leaves out other rows than {run_folder.MANIFEST} says")
    for name, ledger in books.digests.items():
        if manifest.ledgers.get(name) != ledger:
            wrong.append(f"{name} is not what plan and journal give")
    return wrong


def _digest(path: Path) -> str:
    return sha256(path) if path.exists() else ""
