"""Commands for those who account for what was issued: export, diff."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from bulkissue.cli.options import ENVIRONMENT, JOB, JSON, RUNS_DIR
from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from bulkissue.commands.diff import Difference
    from bulkissue.commands.export import Exported

_FORMATS = ("csv", "parquet", "xlsx")
_OUT = click.Path(path_type=Path, dir_okay=False)


@click.command()
@JOB
@click.option("--from", "since", metavar="DATE", help="Sent on this UTC day or later; or since an ISO time.")
@click.option("--to", "until", metavar="DATE", help="Sent on this UTC day or earlier; or before an ISO time.")
@click.option("--occasion", metavar="TEXT", help="Of this occasion, instead of the job's.")
@ENVIRONMENT
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="As the name of FILE ends, if left out; else csv.")
@click.option("--out", type=_OUT, metavar="FILE", help="Write it there, and the control totals to standard output.")
@click.option("--without-identifiers", is_flag=True, help="Leave out who the customers are.")
@JSON
def export(  # noqa: PLR0917 - click passes every option by name
    job: Path,
    since: str | None,
    until: str | None,
    occasion: str | None,
    environment: str | None,
    kind: str | None,
    out: Path | None,
    without_identifiers: bool,
    as_json: bool,
) -> int:
    """
    List what a job's target issued, in all of its runs.

    One line for each thing, with its proof and how it is known. The control totals say of each run how many of its
    rows were issued, how many of these stand here, and how many are unknown. They are held against the run's own
    counts: where these differ nothing is written (exit 1). Where a run cannot be read, or has not come to its end,
    it is named and the totals are not complete (exit 3).
    """
    from bulkissue.commands import export as exporting
    from bulkissue.job.loading import load
    from bulkissue.results import tables

    ending = out.suffix[1:].lower() if out else ""
    chosen = kind or (ending if ending in _FORMATS else "csv")
    if out is None and chosen != "csv":
        raise click.UsageError(f"{chosen} goes to a file: name it with --out")
    if out is None and as_json:
        raise click.UsageError("--json prints the totals where the lines would stand: name a file with --out")
    period = exporting.Period.of(since, until)
    screen = Screen(as_json=as_json, quiet=False)
    flags: dict[str, object] = {} if occasion is None else {"job.occasion": occasion}
    loaded = load(job, flags=flags, environ=os.environ, environment=environment)
    beside = out.parent if out else None
    with exporting.export(loaded, period, beside=beside, identifiers=not without_identifiers) as found:
        if out is None:
            for text in tables.csv_text(found.parts, found.schema):
                sys.stdout.write(text)
        else:
            exporting.write(found, out, cast("tables.Format", chosen))
        if as_json:
            screen.document(_document(found, out))
        else:
            _print_totals(screen.out if out else screen.err, found, out)
        return found.exit_code


def _print_totals(console: "Console", found: "Exported", out: Path | None) -> None:
    from bulkissue.cli import summary
    from bulkissue.job.target import parse

    period = found.period
    when = " ".join(
        text for text in (period.since and f"from {period.since}", period.until and f"before {period.until}") if text
    )
    console.print(f"Issued: {parse(found.target).describe()}{', sent ' if when else ''}{when}", soft_wrap=True)
    header, *lines = found.table()
    shown = [tuple(f"{cell:,}" if isinstance(cell, int) else cell for cell in line) for line in lines]
    summary.print_table(console, tuple(map(str, header)), shown)
    for missing in found.missing:
        console.print(f"not complete: run {missing.run_id} may have issued, and {missing.why}", soft_wrap=True)
    for run in found.open_runs:
        console.print(f"not complete: run {run.run_id} has not come to its end: resume it", soft_wrap=True)
    if unknown := sum(run.unknown for run in found.runs):
        console.print(
            f"{unknown:,} rows are unknown: they may have been issued, and are no lines of the export; reconcile"
        )
    console.print(f"{found.lines:,} lines{f' in {out}' if out else ''}", soft_wrap=True)


def _document(found: "Exported", out: Path | None) -> dict[str, Any]:
    header, *lines = found.table()
    return {
        "exit_code": int(found.exit_code),
        "target": found.target,
        "file": str(out),
        "lines": found.lines,
        "complete": found.complete,
        "runs": [dict(zip(header, line, strict=True)) for line in lines[:-1]],
        "missing": [{"run": one.run_id, "why": one.why} for one in found.missing],
    }


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@RUNS_DIR
@click.option("--out", type=_OUT, metavar="FILE", help="Write the customers who differ there, as CSV.")
@JSON
def diff(first: str, second: str, runs_dir: Path, out: Path | None, as_json: bool) -> int:
    """
    Show how the rows of two runs differ, by customer.

    Customers are the same by the identifier they were sent by. Of one who stands in several rows of a run the row
    counts that was to be sent.
    """
    from bulkissue.commands import diff as differing
    from bulkissue.state.run_folder import find_run

    screen = Screen(as_json=as_json, quiet=False)
    folders = [find_run(name, runs_dir) for name in (first, second)]
    with differing.diff(*folders, beside=out.parent if out else None) as found:
        if out is not None:
            differing.write(found, out)
        if as_json:
            screen.document(_difference(found, out))
        else:
            _print_difference(screen.out, found, out)
    return ExitCode.OK


def _print_difference(console: "Console", found: "Difference", out: Path | None) -> None:
    from bulkissue.cli import summary

    one, other = found.runs
    for manifest in found.runs:
        console.print(f"{manifest.run_id} {manifest.job}: {manifest.target}, {manifest.rows:,} rows", soft_wrap=True)
    lines = [
        (" ".join(change.first or ("not there",)), " ".join(change.second or ("not there",)), f"{change.customers:,}")
        for change in found.changes
    ]
    if lines:
        summary.print_table(console, (one.run_id, other.run_id, "customers"), lines)
    console.print(f"{found.differing:,} customers differ, {found.same:,} ended alike{f'; {out}' if out else ''}")
    for manifest, repeats, nameless in zip(found.runs, found.repeats, found.nameless, strict=True):
        if repeats or nameless:
            console.print(f"{manifest.run_id}: {repeats:,} rows repeat a customer, {nameless:,} name nobody")


def _difference(found: "Difference", out: Path | None) -> dict[str, Any]:
    return {
        "exit_code": int(ExitCode.OK),
        "runs": [manifest.run_id for manifest in found.runs],
        "file": str(out) if out else None,
        "same": found.same,
        "differing": found.differing,
        "changes": [
            {"first": change.first, "second": change.second, "customers": change.customers} for change in found.changes
        ],
        "repeats": found.repeats,
        "nameless": found.nameless,
    }
