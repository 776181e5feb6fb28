"""
The report: `report.html` in a run folder, for people who were not there.

Pure given its inputs: the same run folder, manifest, journal and kin give the same page, byte for byte, on any
machine. It changes nothing but `report.html`, and a run's books must never depend on it.
"""

from pathlib import Path

import msgspec
import polars as pl

from bulkissue import logs
from bulkissue.files import write_whole
from bulkissue.results.report import campaign, course, page
from bulkissue.results.report.campaign import Campaign
from bulkissue.results.report.causes import causes
from bulkissue.results.report.customers import same_customers
from bulkissue.results.report.page import Findings
from bulkissue.results.report.settled import settled
from bulkissue.state.protocols import RunJournal
from bulkissue.state.run_folder import Manifest
from bulkissue.state.store import look_at_journal

REPORT = "report.html"

__all__ = ["REPORT", "publish", "same_customers", "write"]


def publish(folder: Path, manifest: Manifest, journal: RunJournal, issued: pl.LazyFrame) -> Manifest:
    """
    Write a run's report, and its kin's anew, as they name each other.

    A report that cannot be written is logged: the books are whole without it.

    Args:
        folder: The run's folder, its ledgers and its history written, its target locked.
        manifest: The run as `run.json` is about to say.
        journal: The run's journal.
        issued: The target's history with this run in it.

    Returns:
        The manifest, with the rows that turned out to be one customer.
    """
    try:
        manifest = msgspec.structs.replace(manifest, same_customers=same_customers(issued, manifest.run_id))
        kin = campaign.find(folder, manifest)
        write(folder, manifest, journal, kin)
    except Exception as trouble:  # noqa: BLE001 - whatever it is, rows were sent and their books must be closed
        logs.get().warning("report.failed", run=manifest.run_id, trouble=type(trouble).__name__)
        return manifest
    for member in kin.members:
        if member.folder != folder and member.has_ledgers:
            try:
                _write_again(member, kin)
            except Exception as trouble:  # noqa: BLE001 - as above
                logs.get().warning("report.failed", run=member.manifest.run_id, trouble=type(trouble).__name__)
    return manifest


def _write_again(member: campaign.Member, kin: Campaign) -> None:
    manifest = member.manifest
    journal = look_at_journal(member.folder, run_id=manifest.run_id, plan_sha256=manifest.digests["plan.parquet"])
    try:
        write(member.folder, manifest, journal, kin)
    finally:
        journal.leave()


def write(folder: Path, manifest: Manifest, journal: RunJournal, kin: Campaign, out: Path | None = None) -> None:
    """
    Write one run's report.

    Args:
        folder: The run's folder; its ledgers are read.
        manifest: The run as it now stands.
        journal: Its journal.
        kin: The runs it belongs to, as `campaign.find` gives them.
        out: The file; `report.html` in the run's folder if left out.
    """
    events, settlements = journal.events(), journal.settlements()
    found = Findings(
        manifest=manifest,
        causes=causes(folder, manifest, settlements),
        course=course.trace(journal, events),
        settled=settled(folder, settlements),
        campaign=kin,
    )
    write_whole(out or folder / REPORT, page.page(found).encode(errors="replace"))
