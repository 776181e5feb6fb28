"""
The JSON documents of `--json`: a public contract, one document for each command, the same keys whatever happens.

Light on imports, so that even a program that cannot start can say so in JSON. No identifier may stand in it.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkissue.errors import ExitCode
from bulkissue.outcomes import Outcome

if TYPE_CHECKING:
    from bulkissue.commands.preparation import Preview
    from bulkissue.commands.reconcile import Reconciled
    from bulkissue.commands.recovery import LastWord
    from bulkissue.commands.session import Result
    from bulkissue.commands.status import Status
    from bulkissue.job.model import Job
    from bulkissue.settle.cases import Row
    from bulkissue.settle.reading_back import Sampled
    from bulkissue.state.run_folder import Manifest

_NOBODY = {"rows": 0, **{outcome.value: 0 for outcome in Outcome}}


def of_run(result: "Result") -> dict[str, Any]:
    """The JSON document of a run, as the contract has it."""
    manifest = result.manifest
    return {
        "run_id": manifest.run_id,
        "run_dir": str(result.folder),
        "job": manifest.job,
        "state": manifest.state,
        "exit_code": manifest.exit_code,
        "counts": {**_NOBODY, **manifest.counts},
        "reasons": manifest.reasons,
        "requests": manifest.requests,
        "attempts": manifest.attempts,
        "seconds": manifest.seconds,
        "parent_run_id": manifest.parent_run_id,
        "target": manifest.target,
        "rehearsal": manifest.rehearsal,
        "stop": {"reason": manifest.stop.reason, "message": manifest.stop.message} if manifest.stop else None,
        "warnings": warnings(manifest),
    }


def of_trouble(exit_code: ExitCode, message: str, hint: str | None, run_dir: str = "") -> dict[str, Any]:
    """
    The JSON document where no run ended: the same keys, and `error`.

    It names a run only where that was sending, and is to be resumed.
    """
    return {
        "run_id": Path(run_dir).name or None,
        "run_dir": run_dir or None,
        "job": None,
        "state": None,
        "exit_code": int(exit_code),
        "counts": _NOBODY,
        "reasons": {},
        "requests": 0,
        "attempts": 0,
        "seconds": 0.0,
        "error": {"message": message, "hint": hint},
    }


def warnings(manifest: "Manifest") -> list[str]:
    """What a person should notice although nothing failed."""
    counts = manifest.counts
    found = []
    if counts.get("rows") and counts["rows"] == counts.get(Outcome.ALREADY_ISSUED):
        found.append(
            "every row was issued, or may have been, by an earlier run: nothing was sent. "
            "To issue the same thing once more on purpose, give an --occasion."
        )
    found += manifest.fallbacks
    if manifest.in_doubt:
        found.append(
            f"{manifest.in_doubt:,} of the already_issued rows are in doubt: an earlier run has them as unknown. "
            "duplicate.csv names it, and bulkissue reconcile settles it."
        )
    if manifest.left_out:
        why = ", ".join(f"{one.reason} {one.rows:,}" for one in manifest.left_out)
        rows = sum(one.rows for one in manifest.left_out)
        found.append(
            f"{rows:,} rows are counted and not written to duplicate.csv ({why}); "
            'with [output] duplicates = "rows" it has them all'
        )
    if manifest.state == "completed" and not counts.get("rows"):
        found.append("the input has no rows")
    return found


def of_preview(found: "Preview", job: "Job", exit_code: ExitCode) -> dict[str, Any]:
    """The JSON document of a dry run."""
    drawn = found.plan
    return {
        **of_trouble(exit_code, "", None),
        "job": job.job.name,
        "dry_run": True,
        "target": job.issues().text(),
        "counts": {**_NOBODY, "rows": drawn.rows, **drawn.outcomes},
        "reasons": drawn.reasons,
        "to_send": drawn.to_send,
        "requests": drawn.requests,
        "groups": [
            {
                "identifier_type": group.identifier_type,
                "route": group.route,
                "rows": group.rows,
                "requests": group.batches,
            }
            for group in drawn.groups
        ],
        "settled": [{**item} for item in found.settled],
        "warnings": drawn.fell_back(),
        "not_looked_up": found.not_looked_up,
        "error": None,
    }


def of_reconciled(found: "Reconciled") -> dict[str, Any]:
    """The JSON document of `reconcile`: the run's, and what reading back found; `rows` are those that were unknown."""
    account = found.account
    halt = account.halt
    return {
        **of_run(found.result),
        "exit_code": int(found.exit_code),
        "reconciled": {
            "dry_run": found.dry_run,
            "requests": account.requests,
            "unknown": account.unknown,
            "issued": account.found("issued"),
            "not_issued": account.found("not_issued"),
            "left": account.left,
            "rows": [{**_named(row), "finding": finding.kind, "why": finding.why} for row, finding in account.findings],
            "stopped": {"reason": halt.reason, "message": halt.message} if halt else None,
        },
        "sample": {
            "agrees": sum(one.verdict == "agrees" for one in account.sampled),
            "disagrees": [_sampled(one) for one in account.sampled if one.verdict == "disagrees"],
            "unclear": [_sampled(one) for one in account.sampled if one.verdict == "unclear"],
        },
    }


def _named(row: "Row") -> dict[str, Any]:
    return {"file": row.file, "row": row.number}


def _sampled(one: "Sampled") -> dict[str, Any]:
    return {**_named(one.row), "outcome": one.row.outcome, "why": one.why}


def of_status(folder: Path, found: "Status") -> dict[str, Any]:
    """The JSON document of `status RUN`: a run's document with how far it is."""
    manifest = found.manifest
    return {
        "run_id": manifest.run_id,
        "run_dir": str(folder),
        "job": manifest.job,
        "state": found.state,
        "exit_code": manifest.exit_code if manifest.state == found.state else None,
        "counts": {**_NOBODY, **found.counts},
        "reasons": manifest.reasons or found.reasons,
        "requests": found.requests,
        "attempts": found.attempts,
        "seconds": manifest.seconds,
        "parent_run_id": manifest.parent_run_id,
        "target": manifest.target,
        "rehearsal": manifest.rehearsal,
        "planned_rows": found.to_send,
        "planned_requests": found.planned_requests,
        "waits": found.waits,
        "waited_seconds": found.waited_seconds,
        "rows_per_minute": found.rows_per_minute,
        "seconds_left": found.seconds_left,
        "pace": None if found.pace is None else {**dataclasses.asdict(found.pace), "words": found.pace.words()},
    }


def of_lost(job: "Job", word: "LastWord", customers: int) -> dict[str, Any]:
    """The JSON document of `resolve --job`: what stands in history for a run whose folder is lost."""
    return {
        **of_trouble(ExitCode.OK, "", None),
        "run_id": word.run_id,
        "job": job.job.name,
        "state": "lost",
        "customers": customers,
        "error": None,
    }


def of_runs(runs: list[tuple[Path, "Manifest | None"]]) -> dict[str, Any]:
    """The JSON document of `status` without a run: the list, newest first."""
    from bulkissue.state.run_folder import size_of

    return {
        "runs": [
            {
                "run_id": folder.name,
                "run_dir": str(folder),
                "job": manifest.job if manifest else None,
                "state": manifest.state if manifest else None,
                "exit_code": manifest.exit_code if manifest else None,
                "counts": {**_NOBODY, **manifest.counts} if manifest else _NOBODY,
                "parent_run_id": manifest.parent_run_id if manifest else None,
                "rehearsal": manifest.rehearsal if manifest else None,
                "started_at": manifest.started_at if manifest else None,
                "bytes": size_of(folder),
            }
            for folder, manifest in runs
        ]
    }
