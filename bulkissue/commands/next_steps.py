"""
What can be done about a run: a line for each command that goes on with its rows.

Pure. No identifier may stand in it.
"""

from bulkissue.outcomes import Outcome
from bulkissue.state.run_folder import Manifest


def next_steps(manifest: Manifest) -> list[str]:
    """What can be done about the rows that did not succeed, a line for each command."""
    counts, steps = manifest.counts, []
    if manifest.rehearsal:
        steps.append("This was a rehearsal against the stand-in service: nothing real was issued.")
    unissued = [Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED]
    told = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in unissued if counts[outcome])
    if manifest.state != "completed":
        steps.append(f"{told or 'Not finished'}: bulkissue resume {manifest.run_id}")
    elif told:
        steps.append(f"{told}: bulkissue retry {manifest.run_id}, or mend a copy of failure.csv and give it to --input")
    if counts[Outcome.UNKNOWN]:
        steps.append(
            f"{counts[Outcome.UNKNOWN]:,} unknown: bulkissue reconcile {manifest.run_id}, and what it leaves by "
            "bulkissue resolve, with evidence; they are never sent again"
        )
    return steps
