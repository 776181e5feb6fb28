"""What is said of a job file that will not do, and that no secret is ever shown."""

from pathlib import Path

import pytest
from jobfiles import SECRET, Write, problems_of, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


def test_all_problems_at_once(write: Write) -> None:
    """Every problem is named at once, in the file's order, with its key, its value and what is wrong."""
    path = write(
        """
lanes = 8
config_version = 1
[job]
name = "x"
action = "Earn"
unattended = 1
[target]
promotionid = 4
[input]
paths = "x.csv"
[input.columns]
"Mobile" = "mobile"
[identifiers]
prefer = ["id", "emial", 3]
[api]
lanes = 3
[api.limits]
concurrency = true
batch_size = "8"
max_attempts = 21
[limits]
[guards]
max_failed_ratio = 2
[output]
runs_dir = {x = 1}
"""
    )
    assert problems_of(path) == [
        "lanes: is called api.limits.concurrency now",
        'job.action: "Earn" is none of enrol, earn, issue, cart, coupon; did you mean earn?',
        "job.unattended: 1 is neither true nor false",
        "target.promotionid: is not a key of [target]; did you mean target.promotion_id?",
        'input.paths: "x.csv" is not a list; put it in [ ]',
        'input.columns.Mobile: is not a key of [input.columns]; write it the other way round: mobile = "Mobile"',
        'identifiers.prefer: "emial" is none of id, mobile, email, external_id; did you mean email?',
        "identifiers.prefer: 3 is none of id, mobile, email, external_id",
        "api.base_url: is missing; set it here or as BULKISSUE_BASE_URL",
        "api.lanes: is called api.limits.concurrency now",
        "api.limits.concurrency: true is not a whole number",
        'api.limits.batch_size: "8" is not a whole number; write it without quotes',
        "api.limits.max_attempts: 21 is above 20",
        "limits: is not a key of a job file; did you mean api.limits?",
        "guards.max_failed_ratio: 2 is above 1",
        "output.runs_dir: a table is not text",
    ]


def test_disagreements_beside_field_problems(write: Write) -> None:
    """What is wrong between keys is told together with what is wrong in one."""
    path = write(target={"series_id": 5}, api__limits__concurrency=0, api__auth__method="basic")
    assert problems_of(path) == [
        "target.program_id: is missing; earn needs it",
        "target.promotion_id: is missing; earn needs promotion_id, promo_identifier, or both",
        "target.series_id: earn does not use it; it is for coupon",
        "api.limits.concurrency: 0 is below 1",
    ]


def test_missing_tables(write: Write) -> None:
    """An empty file is told all it lacks, the version first."""
    assert problems_of(write("")) == [
        "config_version: is missing; write config_version = 1 at the top",
        "job: the table [job] is missing",
        "target: the table [target] is missing",
        "api: the table [api] is missing",
    ]


def test_value_where_a_table_belongs(write: Write) -> None:
    """A value where a table belongs is refused without being shown."""
    path = write(api__auth=SECRET, guards=[{"canary": True}])
    assert problems_of(path) == [
        "guards: must be a table, written [guards]",
        "api.auth: must be a table, written [api.auth]",
    ]
    assert problems_of(write(api=SECRET), {"BULKISSUE_CONCURRENCY": "2"}) == ["api: must be a table, written [api]"]


def test_long_values_are_clipped(write: Write) -> None:
    """A long value is clipped, and control characters are not printed as they are."""
    (clipped, escaped) = problems_of(write(job__action="x" * 500, api__environment="a\x1b[31m"))
    assert len(clipped) < 200
    assert "…" in clipped
    assert "\x1b" not in escaped


def test_unknown_keys_show_no_value(write: Write) -> None:
    """The value of an unknown key is never shown: it may be anything."""
    assert problems_of(write(api__auth__sekret=SECRET, hdr=SECRET, api__auth__token_header=f"X: {SECRET}"))
