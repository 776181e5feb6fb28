"""
Issue promotions, cart promotions and coupons to a file of customers, and account for every row.

What other programs may import; everything below the packages is private. Each function does what the command of its
name does, raises `bulkissue.errors.BulkissueError` where that refuses, and prints nothing:

    from bulkissue import load_job, run

    result = run(load_job("jobs/earn.toml"), confirmed=True)
    print(result.exit_code, result.manifest.counts)

It must never send without `confirmed=True`, or a job that says `unattended = true`.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Where each name is defined. They are imported when they are first used: some take 0.3 s to import.
_HOMES = dict.fromkeys(
    ("load_job", "run", "resume", "retry", "reconcile", "resolve", "status", "verify", "history"), "bulkissue.api"
) | {"BulkissueError": "bulkissue.errors", "ExitCode": "bulkissue.errors", "Outcome": "bulkissue.outcomes"}

__all__ = [
    "BulkissueError",
    "ExitCode",
    "Outcome",
    "__version__",
    "history",
    "load_job",
    "reconcile",
    "resolve",
    "resume",
    "retry",
    "run",
    "status",
    "verify",
]

if TYPE_CHECKING:
    from bulkissue.api import history, load_job, reconcile, resolve, resume, retry, run, status, verify
    from bulkissue.errors import BulkissueError, ExitCode
    from bulkissue.outcomes import Outcome


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
