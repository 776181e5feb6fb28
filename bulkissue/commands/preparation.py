"""
Preparation: everything before the first send, from the input files to the plan, and the dry run that stops there.

Nothing here sends anything but the questions who a customer is.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from bulkissue import signals
from bulkissue.commands.session import Watch, now_text
from bulkissue.errors import InputRefused, SettingsRefused, StateRefused
from bulkissue.files import sha256
from bulkissue.input.intake import Intake, take_in
from bulkissue.job import loading
from bulkissue.job.credentials import Credentials
from bulkissue.job.inbox import input_files
from bulkissue.job.target import same_target
from bulkissue.outcomes import LEDGER_OF, Outcome
from bulkissue.plan import plan
from bulkissue.results import derivation, ledgers
from bulkissue.settle import customers
from bulkissue.state import run_folder
from bulkissue.state.run_folder import InputDigest, Manifest
from bulkissue.state.store import store_at


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line adds to a job for one run."""

    limit: int | None = None
    expect_rows: int | None = None
    init_state: bool = False
    rehearsal: bool = False
    parent_run_id: str | None = None


def take_input(
    paths: list[Path], loaded: loading.LoadedJob, folder: Path, expect_rows: int | None, watch: Watch
) -> Intake:
    """
    Read the input into the run's folder.

    Raises:
        InputRefused: A file will not do, or the input has another number of rows than was expected.
    """
    places = [loaded.runs_dir, *(path.parent.parent for path in paths)]
    intake = take_in(
        paths,
        base=loaded.base,
        settings=loaded.job.input,
        target=loaded.job.issues().text(),
        out=folder / "input.parquet",
        originals=lambda run_id: run_folder.input_of(run_id, places),
    )
    intake = _with_known_content(intake, loaded, watch)
    watch.taken(intake)
    if expect_rows is not None and intake.rows != expect_rows:
        raise InputRefused(
            f"the input has {intake.rows} rows, --expect-rows says {expect_rows}: nothing was sent",
            hint="is this the right file, and the whole of it?",
        )
    return intake


def _with_known_content(intake: Intake, loaded: loading.LoadedJob, watch: Watch) -> Intake:
    """The intake, with a note at each file whose content an earlier run of the target took by another name."""
    target, taken = loaded.job.issues().text(), dict[str, tuple[str, str]]()
    for folder in reversed(run_folder.list_runs(loaded.runs_dir)):
        try:
            manifest = run_folder.read_manifest(folder)
        except StateRefused:
            continue  # of this run `status` says more
        if not manifest.rehearsal and same_target(manifest.target, target):
            taken |= {file.sha256: (file.name, manifest.run_id) for file in manifest.inputs}
    files = []
    for file in intake.files:
        name, run_id = taken.get(file.sha256, ("", ""))
        note = f"the same content as {name}, which run {run_id} took" if name not in {"", file.name} else ""
        files.append(replace(file, notes=(*file.notes, note)) if note else file)
        if note:
            watch.warned(f"{file.name}: {note}")
    return replace(intake, files=tuple(files))


def look_customers_up(
    loaded: loading.LoadedJob, folder: Path, intake: Intake, credentials: Credentials, watch: Watch
) -> pl.LazyFrame | None:
    """Who is behind the input's identifiers, as far as the service knows; None where the job does not ask."""
    if not loaded.job.identifiers.resolve_customers:
        return None
    source, memory = folder / "input.parquet", customers.memory_of(loaded)
    missing = memory.missing(plan.customers_of(source, intake, loaded.job))
    with signals.as_before():
        customers.look_up(
            missing,
            memory,
            loaded.job.api,
            credentials,
            store_at(loaded.state_dir).allowance(loaded.job.api.host, credentials.name),
            name=lambda row: plan.name_of(source, row),
            tell=lambda asked, of: watch.asking("customers looked up", asked, of),
        )
    return memory.known()


def refuse_other_names(
    loaded: loading.LoadedJob,
    planned: Path,
    drawn: plan.Plan,
    known: pl.LazyFrame | None,
    marks: bytearray | None = None,
) -> None:
    """
    Refuse to send to customers who have it under another name of what may be the same service.

    Args:
        loaded: The job.
        planned: Its `plan.parquet`.
        drawn: The plan, in numbers.
        known: As `look_customers_up` gives it.
        marks: Of each row, `journal.SENT` where it is not to be sent any more; None: all that the plan says.

    Raises:
        SettingsRefused: There are such customers, and the job does not say that the other name is another service.
    """
    target, others = loaded.job.issues(), set(loaded.job.api.other_services)
    for environment, issued in store_at(loaded.state_dir).elsewhere(target).items():
        if environment in others:
            continue
        held = plan.hold(planned, bytearray(drawn.rows) if marks is None else marks, issued, loaded.job, known).height
        if held:
            raise SettingsRefused(
                f"{held} customers of this input have it, or may have it, in {environment}, and this job issues "
                f"{target.describe()}: if both are names of one service, they would get it twice",
                hint=f'[api] environment = "{environment}" if they are one service; '
                f'[api] other_services = ["{environment}"] if they are two',
            )


def manifest_of(
    run_id: str,
    number: int,
    loaded: loading.LoadedJob,
    intake: Intake,
    *,
    choices: Choices,
    drawn: plan.Plan,
    folder: Path,
) -> Manifest:
    """The manifest of a run that is planned and has sent nothing; `number` as the state folder counts runs."""
    mark = store_at(loaded.state_dir).mark()
    return Manifest(
        run_id=run_id,
        job=loaded.job.job.name,
        action=loaded.job.job.action.value,
        target=loaded.job.issues().text(),
        base_url=loaded.job.api.base_url,
        state_dir=str(loaded.state_dir),
        state_identity=mark.identity if mark else "",
        number=number,
        country_code=loaded.job.identifiers.calling_code or "",
        national_length=loaded.job.identifiers.national_length,
        started_at=now_text(),
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
        digests={name: sha256(folder / name) for name in run_folder.KEPT},
        parent_run_id=choices.parent_run_id or next((run for file in intake.files for run in file.runs), None),
        rehearsal=choices.rehearsal,
        csv_bom=loaded.job.output.csv_bom or any(file.marked for file in intake.files),
        duplicates=loaded.job.output.duplicates,
        fallbacks=tuple(drawn.fell_back()),
        versions=run_folder.versions(),
    )


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


def preview(loaded: loading.LoadedJob, choices: Choices, out: Path | None, watch: Watch) -> Preview:
    """
    Read, validate and plan as `start` would, and send nothing; makes no run folder and takes no lock.

    Args:
        loaded: The job.
        choices: As for `start`.
        out: Where to write the failure and duplicate ledgers of what would not be sent; None for nowhere.
        watch: Who is told.
    """
    paths = input_files(loaded)
    target = loaded.job.issues()
    with tempfile.TemporaryDirectory(prefix="bulkissue-") as name:
        folder = Path(name)
        intake = take_input(paths, loaded, folder, choices.expect_rows, watch)
        issued = store_at(loaded.state_dir).issued(target)
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
        refuse_other_names(loaded, folder / "plan.parquet", drawn, known)
        settled = plan.examples(folder / "plan.parquet", folder / "input.parquet")
        if out is not None:
            _write_unsent(folder, intake, target.text(), out)
        return Preview(intake, drawn, settled.to_dicts(), not_looked_up)


def _write_unsent(folder: Path, intake: Intake, target: str, out: Path) -> None:
    """The failure and duplicate ledgers of a dry run: the rows its plan settles."""
    run_id = "dry-run"
    journal = store_at(folder).create_journal(folder, run_id=run_id, plan_sha256="")
    run = derivation.Run(folder, run_id, target, intake.columns, intake.rows)
    names = sorted({LEDGER_OF[outcome] for outcome in (Outcome.REJECTED, Outcome.DUPLICATE)})
    try:
        pieces = derivation.pieces(run, journal, derivation.Ending(completed=False))
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ledgers.writing(run, out, names) as append:
            for piece in pieces:
                append(piece.only(pl.col("_bi_batch").is_null()))
    finally:
        journal.close()
