"""
Metrics: what Prometheus is told of a job, in a file for node_exporter's textfile collector.

Written whole at the end and once a minute. No identifier stands in it, so everybody may read it. What cannot be written
is one warning, and never changes a run.
"""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from bulkissue import logs
from bulkissue.errors import SettingsRefused, StateRefused
from bulkissue.job.loading import LoadedJob
from bulkissue.outcomes import Outcome
from bulkissue.send.guards import Counters
from bulkissue.state import run_folder
from bulkissue.state.run_folder import Manifest

_EVERY_SECONDS = 60.0
_SUCCESS = "bulkissue_last_success_timestamp_seconds"
#: What is told, and what it means; each with the label `job`.
METRICS: dict[str, str] = {
    "bulkissue_rows": "Rows of the last run by outcome",
    "bulkissue_reason_rows": "Rows of the last run that did not succeed, by reason",
    "bulkissue_sending": "Whether a run is sending now",
    "bulkissue_requests_per_minute": "How fast the run may send at this moment",
    "bulkissue_waits": "How often the service asked the run to wait",
    "bulkissue_waited_seconds": "For how long the service asked the run to wait",
    "bulkissue_unknown_rows": "Rows of all runs of the job that are unknown and not settled",
    "bulkissue_oldest_unknown_timestamp_seconds": "When the oldest run ended that has unknown rows, else 0",
    "bulkissue_run_seconds": "How long the last run was sending",
    "bulkissue_exit_code": "What the last run ended with",
    "bulkissue_last_run_timestamp_seconds": "When the last run ended",
    _SUCCESS: "When a run of the job last ended with exit code 0",
}


class Metrics:
    """
    What a job tells.

    Args:
        loaded: The job; without `[metrics] textfile` nothing is written.

    Raises:
        SettingsRefused: prometheus-client is not installed.
    """

    def __init__(self, loaded: LoadedJob) -> None:
        textfile = loaded.job.metrics.textfile
        self._loaded = loaded
        self._job = loaded.job.job.name
        self._path = None if textfile is None else Path(textfile.replace("{job}", self._job))
        self._next = 0.0
        if self._path is not None:
            try:
                import prometheus_client  # noqa: F401 - only whether it is there
            except ImportError as trouble:
                raise SettingsRefused(
                    "[metrics] textfile is set, and the part that writes it is not installed",
                    hint="pip install 'bulkissue[metrics]'",
                ) from trouble

    def sending(self, counters: Counters) -> None:
        """A run is sending; looked at once a minute."""
        if self._path is None or (now := time.monotonic()) < self._next:
            return
        self._next = now + _EVERY_SECONDS
        pace = counters.pace
        self._write(
            counters.rows,
            counters.reasons,
            {
                "bulkissue_sending": 1,
                "bulkissue_requests_per_minute": self._loaded.job.api.limits.pace if pace is None else pace.per_minute,
                "bulkissue_waits": counters.waits,
                "bulkissue_waited_seconds": counters.waited_seconds,
            },
        )

    def ended(self, manifest: Manifest) -> None:
        """A run has ended, or was read back since."""
        if self._path is None or manifest.rehearsal:
            return
        moment = _seconds(manifest.finished_at)
        self._write(
            {outcome.value: manifest.counts.get(outcome, 0) for outcome in Outcome},
            manifest.reasons,
            {
                "bulkissue_sending": 0,
                "bulkissue_run_seconds": manifest.seconds,
                "bulkissue_exit_code": manifest.exit_code or 0,
                "bulkissue_last_run_timestamp_seconds": moment,
                **({_SUCCESS: moment} if manifest.exit_code == 0 else {}),
            },
        )

    def _write(self, outcomes: Mapping[str, int], reasons: Mapping[str, int], figures: dict[str, float]) -> None:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

        path = self._path
        if path is None:
            return
        unknown, oldest = _unknown(self._loaded, self._job)
        told = {
            **({} if _SUCCESS in figures else _last_success(path, self._job)),
            "bulkissue_unknown_rows": unknown,
            "bulkissue_oldest_unknown_timestamp_seconds": oldest,
            **figures,
        }
        registry = CollectorRegistry()
        for name, value in told.items():
            Gauge(name, METRICS[name], ["job"], registry=registry).labels(self._job).set(value)
        for name, label, counts in (
            ("bulkissue_rows", "outcome", outcomes),
            ("bulkissue_reason_rows", "reason", reasons),
        ):
            gauge = Gauge(name, METRICS[name], ["job", label], registry=registry)
            for kind, rows in dict(counts).items():
                gauge.labels(self._job, kind).set(rows)
        try:
            write_to_textfile(str(path), registry)
            path.chmod(0o644)  # node_exporter is another user
        except OSError as trouble:
            logs.get().warning("metrics.failed", why=trouble.strerror)


def _unknown(loaded: LoadedJob, job: str) -> tuple[int, float]:
    """How many rows of the job's runs are unknown, and when the oldest of these runs ended."""
    rows, oldest = 0, 0.0
    for folder in run_folder.list_runs(loaded.runs_dir):
        try:
            manifest = run_folder.read_manifest(folder)
        except StateRefused:
            continue  # `status` says so of it
        count = manifest.counts.get(Outcome.UNKNOWN, 0)
        if count and manifest.job == job and not manifest.rehearsal:
            rows, oldest = rows + count, _seconds(manifest.finished_at)  # newest first
    return rows, oldest


def _last_success(path: Path, job: str) -> dict[str, float]:
    """What the file said of the last success, which a run that failed does not change."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    for family in families:
        for sample in family.samples:
            if (sample.name, sample.labels.get("job")) == (_SUCCESS, job):
                return {_SUCCESS: sample.value}
    return {}


def _seconds(moment: str | None) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
