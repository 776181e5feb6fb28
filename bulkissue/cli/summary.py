"""
What a person or a script reads when a command ends: tables on a terminal, one line when quiet, JSON for scripts.

Rows are named by file and number. No identifier may be printed here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bulkissue.cli.json_output import warnings
from bulkissue.commands.next_steps import next_steps
from bulkissue.commands.preparation import Preview
from bulkissue.commands.reconcile import Reconciled
from bulkissue.commands.session import Result
from bulkissue.commands.status import Status
from bulkissue.errors import EXIT_MEANINGS, ExitCode
from bulkissue.input.intake import Intake
from bulkissue.job.model import Job
from bulkissue.job.target import parse
from bulkissue.outcomes import LEDGER_OF, Outcome
from bulkissue.plan.plan import Plan
from bulkissue.service.codes import meaning
from bulkissue.state.run_folder import Manifest, size_of

_MOST_NAMED = 20
_MOST_REASONS = 5


def needs_a_person(result: Result) -> list[str]:
    """What a person has to do about a run, as a mail would say it: what, how many, where, which command; or nothing."""
    manifest = result.manifest
    if result.exit_code == ExitCode.OK:
        return []
    counts = ", ".join(
        f"{count:,} {outcome}"
        for outcome in (Outcome.UNKNOWN, Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED)
        if (count := manifest.counts.get(outcome))
    )
    rows = manifest.counts.get("rows", manifest.rows)
    what = f"{counts or manifest.state}; {manifest.counts.get(Outcome.SUCCEEDED, 0):,} of {rows:,} rows succeeded"
    code = f"Exit {int(result.exit_code)}: {EXIT_MEANINGS[result.exit_code]}"
    lines = [f"{_named_job(manifest)}: {what}. {code}.", f"  {result.folder}"]
    if manifest.stop is not None:
        lines.append(f"  {manifest.stop.message} ({manifest.stop.reason})")
    if manifest.reasons:
        most = list(manifest.reasons.items())[:_MOST_REASONS]
        lines += [f"  {rows:,} {reason}: {meaning(reason)}" for reason, rows in most]
    return [*lines, *(f"  {step}" for step in next_steps(manifest))]


def print_run(console: Console, result: Result) -> None:
    """A run as a table: outcomes, reasons, where the ledgers are, what to do next."""
    manifest = result.manifest
    console.print(f"Run {manifest.run_id} of {_named_job(manifest)}: {parse(manifest.target).describe()}")
    _print(
        console,
        ("outcome", "rows", "ledger"),
        [(outcome, f"{manifest.counts[outcome]:,}", f"{LEDGER_OF[outcome]}.csv") for outcome in Outcome]
        + [("all rows", f"{manifest.counts['rows']:,}", "")],
    )
    if manifest.reasons:
        _print(
            console,
            ("reason", "rows", "meaning"),
            [(reason, f"{rows:,}", meaning(reason)) for reason, rows in manifest.reasons.items()],
        )
    console.print(
        f"{manifest.requests:,} requests, {manifest.attempts:,} attempts, {manifest.seconds:,.1f} seconds. "
        f"{result.folder}",
        soft_wrap=True,
    )
    if manifest.stop is not None:
        console.print(f"{manifest.stop.message} ({manifest.stop.reason})", soft_wrap=True)
    for line in (*warnings(manifest), *next_steps(manifest)):
        console.print(line, soft_wrap=True)
    console.print(f"Exit {manifest.exit_code}: {EXIT_MEANINGS[result.exit_code]}.")


def reconciled_line(found: Reconciled) -> str:
    """What reading back came to, in one line."""
    account = found.account
    return (
        f"{found.result.manifest.run_id} reconciled exit={int(found.exit_code)} unknown={account.unknown} "
        f"issued={account.found('issued')} not_issued={account.found('not_issued')} left={account.left} "
        f"sampled={len(account.sampled)} doubted={len(account.doubted)}"
    )


def print_reconciled(console: Console, found: Reconciled) -> None:
    """What reading back found: rows settled, rows left with why, and the sample; and the run as it stands now."""
    account = found.account
    changed = not found.dry_run and bool(account.findings)
    if changed:
        print_run(console, found.result)
    would = "would be " if found.dry_run else ""
    if account.unknown:
        console.print(
            f"{account.unknown:,} rows were unknown: {account.found('issued'):,} {would}settled as issued, "
            f"{account.found('not_issued'):,} as not issued, {account.left:,} stay unknown. "
            f"{account.requests:,} requests, all of them only reading.",
            soft_wrap=True,
        )
    _print_named(
        console,
        "finding",
        [
            (row.name, finding.kind, finding.why)
            for row, finding in sorted(account.findings, key=lambda pair: pair[0].place)
            if found.dry_run or finding.kind not in {"issued", "not_issued"}
        ],
    )
    if account.sampled:
        agree = len(account.sampled) - len(account.doubted)
        console.print(f"Sample: the service agrees with {agree:,} of {len(account.sampled):,} rows.")
    _print_named(console, "the service", [(one.row.name, one.verdict, one.why) for one in account.doubted])
    if account.halt is not None:
        console.print(f"{account.halt.message} ({account.halt.reason}). What was settled stays.", soft_wrap=True)
    if not changed or found.exit_code != found.result.exit_code:
        console.print(f"Exit {int(found.exit_code)}: {EXIT_MEANINGS[found.exit_code]}.")


def _print_named(console: Console, header: str, rows: list[tuple[str, str, str]]) -> None:
    if rows:
        _print(console, ("row", header, "why"), rows[:_MOST_NAMED])
    if len(rows) > _MOST_NAMED:
        console.print(f"… and {len(rows) - _MOST_NAMED:,} more; --json names them all.")


def print_taken(console: Console, intake: Intake) -> None:
    """How each input file was read."""
    for file in intake.files:
        how = ", ".join(part for part in (file.encoding, _delimiter(file.delimiter)) if part)
        found = ", ".join(f"{ours} from “{theirs}”" for ours, theirs in file.columns.items())
        console.print(
            f"{file.name}: {file.rows:,} rows{f' ({how})' if how else ''}; {file.form} form: {found}", soft_wrap=True
        )
        for note in file.notes:
            console.print(f"  {note}", soft_wrap=True)
    used = {theirs for file in intake.files for theirs in file.columns.values()}
    if unused := [f"“{column}”" for column in intake.columns if column not in used]:
        console.print(f"Kept, and not used: {', '.join(unused)}", soft_wrap=True)


def print_preview(console: Console, found: Preview, job: Job) -> None:
    """What a run would send, and what it would not."""
    drawn = found.plan
    limits = job.api.limits
    console.print(f"Dry run, nothing is sent: {job.issues().describe()}, at {job.api.base_url}", soft_wrap=True)
    _print(
        console,
        ("would send", "rows", "requests", "route"),
        [(group.identifier_type, f"{group.rows:,}", f"{group.batches:,}", group.route) for group in drawn.groups]
        + [("in all", f"{drawn.to_send:,}", f"{drawn.requests:,}", "")],
    )
    for sentence in drawn.fell_back():
        console.print(sentence, soft_wrap=True)
    if drawn.requests:
        minutes = drawn.requests / limits.pace
        console.print(f"About {_duration(minutes * 60)} at {limits.pace:,.0f} requests per minute.")
    if found.settled:
        _print(
            console,
            ("would not send", "rows", "reason", "for example"),
            [
                (str(item["outcome"]), f"{item['rows']:,}", str(item["reason"]), _examples(item))
                for item in found.settled
            ],
        )
    if found.not_looked_up:
        minutes = found.not_looked_up / limits.pace
        console.print(
            f"{found.not_looked_up:,} customers are not looked up yet, which takes about {_duration(minutes * 60)}; "
            "some may prove to be the same.",
            soft_wrap=True,
        )
    console.print(f"{drawn.rows:,} rows in all.")


def print_status(console: Console, folder: Path, found: Status) -> None:
    """Where a run stands."""
    manifest = found.manifest
    target = parse(manifest.target).describe()
    console.print(f"Run {manifest.run_id} of {_named_job(manifest)}: {found.state}. {target}")
    _print(
        console,
        ("outcome", "rows"),
        [(outcome, f"{found.counts[outcome]:,}") for outcome in Outcome] + [("all rows", f"{found.counts['rows']:,}")],
    )
    left = f", about {_duration(found.seconds_left)} left" if found.seconds_left is not None else ""
    console.print(
        f"{found.requests:,} of {found.planned_requests:,} requests, {found.attempts:,} attempts, "
        f"{found.rows_per_minute:,.0f} rows per minute{left}. {folder}",
        soft_wrap=True,
    )
    if found.pace is not None:
        console.print(f"Pace: {found.pace.words()}.", soft_wrap=True)
    if found.waits:
        console.print(f"The service asked to wait {found.waits:,} times, {found.waited_seconds:,.0f} seconds in all.")
    if found.state != manifest.state:
        console.print(
            "No process works on it: it was killed, the machine went down, or its books could not be written."
        )
    if found.state in {"interrupted", "stopped"}:
        console.print(f"Go on: bulkissue resume {manifest.run_id}")


def print_runs(console: Console, runs: Iterable[tuple[Path, Manifest | None]]) -> None:
    """The list of runs."""
    rows: list[tuple[str, ...]] = []
    for folder, manifest in runs:
        if manifest is None:
            rows.append((folder.name, "", "no manifest: nothing was sent", "", "", "", "", "", _size(folder)))
            continue
        counts = manifest.counts
        rows.append(
            (
                folder.name,
                _named_job(manifest),
                manifest.state,
                "" if manifest.exit_code is None else str(manifest.exit_code),
                f"{manifest.rows:,}",
                *(f"{counts.get(outcome, 0):,}" for outcome in (Outcome.SUCCEEDED, Outcome.UNKNOWN)),
                manifest.parent_run_id or "",
                _size(folder),
            )
        )
    _print(console, ("run", "job", "state", "exit", "rows", "succeeded", "unknown", "parent", "size"), rows)


def _size(folder: Path) -> str:
    return f"{size_of(folder) / 1e6:,.1f} MB"


def print_history(console: Console, found: list[dict[str, Any]]) -> None:
    """What a customer got."""
    if not found:
        console.print("Nothing of this target, as far as history knows.")
        return
    _print(
        console,
        ("outcome", "answered at", "reference", "run", "row"),
        [
            (
                str(line["outcome"]),
                str(line["answered_at"] or ""),
                str(line["reference"] or ""),
                str(line["run"]),
                f"{line['source_file']} row {line['source_row']}",
            )
            for line in found
        ],
    )


def plan_lines(drawn: Plan) -> str:
    """A plan in one line, before the sending begins."""
    groups = ", ".join(f"{group.rows:,} by {group.identifier_type}" for group in drawn.groups)
    settled = ", ".join(f"{rows:,} {outcome}" for outcome, rows in drawn.outcomes.items())
    return (
        f"{drawn.to_send:,} of {drawn.rows:,} rows to send in {drawn.requests:,} requests"
        f"{f' ({groups})' if groups else ''}{f'; {settled}' if settled else ''}"
    )


def print_table(console: Console, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Any small table."""
    _print(console, header, rows)


def _print(console: Console, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, justify="right" if name in {"rows", "requests"} else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _named_job(manifest: Manifest) -> str:
    return f"{manifest.job} (rehearsal)" if manifest.rehearsal else manifest.job


def _examples(item: dict[str, Any]) -> str:
    names = [name for name in item["names"] if name]
    more = item["rows"] - len(names)
    return "; ".join(names) + (f" and {more:,} more" if more > 0 else "")


def _delimiter(text: str) -> str:
    return {"": "", "\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}.get(text, f"“{text}”")


def _duration(seconds: float) -> str:
    if seconds < 1.5:
        return "a second"
    if seconds < 90:
        return f"{round(seconds)} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
