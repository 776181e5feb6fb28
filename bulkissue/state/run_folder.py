"""
The run folder: its name, its manifest `run.json`, and how runs are found and listed.

Reads and writes the manifest only. The manifest is a summary: what is true of a row stands in plan and
journal, and nothing here may be trusted instead of them.
"""

import inspect
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

import bulkissue
from bulkissue.errors import StateRefused, TargetLocked, UsageRefused
from bulkissue.files import KernelLock, make_folder, sha256, sync_folder, write_whole

FORMAT = 1
MANIFEST = "run.json"
#: What a run was started with, and what its books are made from again; the manifest holds their digests.
KEPT = ("job.toml", "input.parquet", "plan.parquet")

State = Literal["planned", "running", "interrupted", "stopped", "completed"]


class InputDigest(msgspec.Struct, frozen=True):
    """An input file as it was read: rows are data rows, `columns` our names and theirs."""

    name: str
    path: str
    kind: str
    rows: int
    size: int
    sha256: str
    encoding: str
    delimiter: str
    form: str
    columns: dict[str, str]
    notes: tuple[str, ...] = ()


class Stop(msgspec.Struct, frozen=True):
    """Why a run stopped before its end, and the exit code of that alone."""

    reason: str
    message: str
    exit_code: int


class SameCustomer(msgspec.Struct, frozen=True):
    """Two rows of one customer, as messages name them; the second one is of the run named, or of this one."""

    rows: tuple[str, str]
    run: str | None = None


class SameCustomers(msgspec.Struct, frozen=True):
    """How many rows turned out to be a customer who stands in another row too, and the first hundred of them."""

    count: int = 0
    named: tuple[SameCustomer, ...] = ()


class Removal(msgspec.Struct, frozen=True):
    """
    Personal data that was removed from a run's folder.

    Attributes:
        by: `purge`: of all its customers, as their time had come. `erase`: of one, by request.
        at: When, ISO 8601 in UTC.
        rows: Of how many rows.
        before: The SHA-256 that each file had before.
    """

    by: Literal["purge", "erase"]
    at: str
    rows: int
    before: dict[str, str]


class LeftOut(msgspec.Struct, frozen=True):
    """Rows of one outcome and reason that `duplicate.csv` does not have."""

    outcome: str
    reason: str
    rows: int


class Manifest(msgspec.Struct, frozen=True, omit_defaults=False):
    """
    What `run.json` holds.

    Attributes:
        format: Of this file.
        run_id: Also the folder's name.
        parent_run_id: The run whose failure ledger this one took.
        job: The job's name.
        action: The job's action.
        target: As in `_bi_target`.
        base_url: Where it sends; a resume goes nowhere else.
        state: `planned` until the first send, `running` while it sends or after a crash.
        exit_code: Of the run as its ledgers now stand; None until they are written.
        started_at: ISO 8601, UTC.
        finished_at: When its ledgers were last written.
        seconds: Spent in all sessions.
        counts: Rows in all and by outcome.
        reasons: Rows of the failure and unknown ledgers by reason.
        requests: Batches sent at least once.
        attempts: Sendings.
        rows: Input rows.
        columns: The input's own columns, in the ledgers' order.
        inputs: The input files.
        digests: SHA-256 of `job.toml`, `input.parquet` and `plan.parquet`.
        ledgers: By file name, `rows` and `sha256`.
        rehearsal: It went to the stand-in service.
        stop: Why it stopped, if it did.
        csv_bom: Whether its CSV ledgers begin with a byte-order mark, as its input did or the job says.
        duplicates: Whether `duplicate.csv` has all its rows, or the first ones and the others are counted here.
        left_out: What it then leaves out.
        removals: Personal data that was removed from the folder since.
        fallbacks: Which rows go by another identifier than the preferred one, and why; in sentences.
        in_doubt: Rows left out because an earlier run may have issued them.
        same_customers: Double gifts that no comparison of identifiers can see; None where nobody looked.
        state_dir: Where history and locks are.
        state_identity: Of that folder; another folder may be put in its place.
        number: Of the run, by that folder's count.
        country_code: What national numbers were given; empty for none, None where an early version did not write it.
        national_length: How many digits those have.
        versions: Of what it was made with.
    """

    run_id: str
    job: str
    action: str
    target: str
    base_url: str
    state_dir: str
    started_at: str
    rows: int
    columns: tuple[str, ...]
    inputs: tuple[InputDigest, ...]
    digests: dict[str, str]
    state: State = "planned"
    exit_code: int | None = None
    parent_run_id: str | None = None
    finished_at: str | None = None
    seconds: float = 0.0
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}
    requests: int = 0
    attempts: int = 0
    ledgers: dict[str, dict[str, object]] = {}
    stop: Stop | None = None
    rehearsal: bool = False
    state_identity: str = ""
    number: int = 0
    country_code: str | None = None
    national_length: int | None = None
    csv_bom: bool = False
    duplicates: Literal["rows", "count"] = "rows"
    left_out: tuple[LeftOut, ...] = ()
    removals: tuple[Removal, ...] = ()
    fallbacks: tuple[str, ...] = ()
    in_doubt: int = 0
    same_customers: SameCustomers | None = None
    versions: dict[str, str] = {}
    format: int = FORMAT

    @property
    def purged_at(self) -> str:
        """When the personal data of all its customers was removed; empty where it was not."""
        return next((removal.at for removal in self.removals if removal.by == "purge"), "")


def manifest_schema() -> dict[str, Any]:
    """
    JSON Schema (2020-12) of `run.json`.

    `format` is raised where a reader of the older one would misread, and then an older one is migrated when it is
    opened, or refused; a newer one is refused. Within a format keys may come, and none goes or means something else.
    """
    schema: dict[str, Any] = msgspec.json.schema(Manifest, schema_hook=lambda _: {"type": ["integer", "string"]})
    of_run = schema["$defs"]["Manifest"]
    about = inspect.cleandoc(Manifest.__doc__ or "").partition("Attributes:\n")[2]
    for line in about.splitlines():
        name, _, words = line.strip().partition(": ")
        if name in of_run["properties"]:
            of_run["properties"][name]["description"] = words
    for definition in schema["$defs"].values():
        definition["description"] = definition.get("description", "").partition("\n\nAttributes:")[0]
    of_run["properties"]["format"] |= {"const": FORMAT}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "run.json of bulkissue", **schema}


_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{9}Z-[0-9a-f]{4}")


def versions() -> dict[str, str]:
    """What this program and the libraries that decide results are."""
    from importlib.metadata import version

    return {"bulkissue": bulkissue.__version__, "python": platform.python_version()} | {
        name: version(name) for name in ("polars", "httpx", "httptools", "msgspec")
    }


def new_run_id() -> str:
    """UTC time with milliseconds and a short random part; sorts by time: `20261120T093015123Z-7f3a`."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z-{secrets.token_hex(2)}"


@contextmanager
def run_locked(folder: Path, run_id: str) -> Iterator[None]:
    """
    A run's own kernel lock, held until the block ends.

    It stands in the run folder, so it tells that the run is alive even where the state folder, and the target's
    lock with it, was replaced meanwhile.

    Raises:
        TargetLocked: Another process is at work on the run.
        StateRefused: The folder is missing.
    """
    lock = KernelLock(folder / ".lock")
    try:
        taken = lock.take("")  # who holds it stands in the target's lock; looking at a run changes nothing in it
    except (FileNotFoundError, NotADirectoryError) as trouble:
        raise StateRefused(f"{folder} is missing") from trouble
    if not taken:
        raise TargetLocked(
            f"run {run_id} is being worked on in {folder}, by a process that took the target's lock before the state "
            "folder was replaced",
            hint="wait for it to end, then start again",
        )
    try:
        yield
    finally:
        lock.give_back()


def make_run_folder(runs_dir: Path, run_id: str) -> Path:
    """
    The new run's folder, mode 0700, on the disk.

    Raises:
        FileExistsError: Another run has it.
    """
    make_folder(runs_dir)
    folder = runs_dir / run_id
    folder.mkdir(mode=0o700)
    sync_folder(folder)
    sync_folder(runs_dir)
    return folder


def remove_unsent(folder: Path) -> None:
    """Remove the folder of a run that was refused before it was registered: nothing of it was sent."""
    shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace `run.json`, whole and durable."""
    write_whole(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """
    What `run.json` says.

    Raises:
        StateRefused: It is missing, unreadable or newer than this program.
    """
    path = folder / MANIFEST
    if (folder / ".new" / ".whole").exists():
        raise StateRefused(
            f"{folder} is halfway through the removal of personal data, which was killed",
            hint="bulkissue purge JOB.toml, or the erase that was killed, brings it to its end",
        )
    try:
        content = path.read_bytes()
    except FileNotFoundError as trouble:
        if (folder / "journal.db").exists():
            raise StateRefused(
                f"{path} is missing, and the run may have issued", hint="restore the run folder from a copy"
            ) from trouble
        raise StateRefused(
            f"{folder} has no {MANIFEST}: the run ended before its plan was whole, and sent nothing",
            hint="start the job again; this folder may be deleted",
        ) from trouble
    try:
        if (found := msgspec.json.decode(content, type=dict[str, object]).get("format")) != FORMAT:
            raise StateRefused(f"{path} has format {found}, this bulkissue knows {FORMAT}")
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as trouble:
        raise StateRefused(f"{path} cannot be read: {trouble}", hint="restore it from a copy of run.json") from trouble


def refuse_purged(manifest: Manifest) -> None:
    """
    Make sure that a run's customers are still known.

    Raises:
        UsageRefused: They were purged.
    """
    if manifest.purged_at:
        raise UsageRefused(
            f"run {manifest.run_id} was purged at {manifest.purged_at}: who its customers were is not known any more",
            hint="its counts and proofs stay: bulkissue status, verify and export still tell them",
        )


def refuse_changed(folder: Path, manifest: Manifest) -> None:
    """
    Make sure that the files of `KEPT` are as they were when the run was planned.

    Raises:
        StateRefused: One is missing or was changed.
    """
    for name in KEPT:
        path = folder / name
        if not path.exists() or sha256(path) != manifest.digests[name]:
            raise StateRefused(
                f"{path} is missing or not as it was when the run was planned",
                hint="restore the run folder from a copy",
            )


def input_of(run_id: str, runs_dirs: Iterable[Path]) -> Path | None:
    """The `input.parquet` of a run, as it was read; None where it is gone, or is not what the run had read."""
    if not _RUN_ID.fullmatch(run_id):
        return None
    for folder in (runs_dir / run_id for runs_dir in runs_dirs):
        try:
            digest = read_manifest(folder).digests["input.parquet"]
        except (StateRefused, KeyError):
            continue
        path = folder / "input.parquet"
        if path.exists() and sha256(path) == digest:
            return path
    return None


def find_run(name: str, runs_dir: Path) -> Path:
    """
    The folder of a run named by its id, its folder, or `latest`, which passes over rehearsals if it can.

    Raises:
        UsageRefused: There is no such run.
    """
    if name == "latest":
        return _latest(runs_dir).absolute()
    for folder in (runs_dir / name, Path(name)):
        if folder.is_dir():
            return folder.absolute()
    raise UsageRefused(
        f"there is no run {name} in {runs_dir}", hint="bulkissue status lists the runs; --runs-dir DIR looks elsewhere"
    )


def _latest(runs_dir: Path) -> Path:
    """The run that was begun last: by its state folder's count, as a clock may have been set back; else by its id."""
    runs = [folder for folder in list_runs(runs_dir) if (folder / MANIFEST).exists()]
    if not runs:
        raise UsageRefused(f"there is no run in {runs_dir}", hint="name the runs folder with --runs-dir")
    last: dict[str, tuple[int, Path]] = {}
    for folder in runs:
        try:
            manifest = read_manifest(folder)
        except StateRefused:  # whoever wants this run is told
            return folder
        if not manifest.rehearsal:
            kept = last.setdefault(manifest.state_identity, (manifest.number, folder))
            last[manifest.state_identity] = max(kept, (manifest.number, folder))
    return max((folder for _, folder in last.values()), key=lambda folder: folder.name, default=runs[0])


def size_of(folder: Path) -> int:
    """The bytes of all files of a run's folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def list_runs(runs_dir: Path) -> list[Path]:
    """The folder of every run below `runs_dir`, newest first."""
    return sorted(
        (path for path in runs_dir.glob("*T*Z-*") if _RUN_ID.fullmatch(path.name) and path.is_dir()), reverse=True
    )
