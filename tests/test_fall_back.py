"""Rows that go by another identifier than the preferred one: said everywhere, or rejected."""

import csv
import json

import pytest
from scene import Scene

ROWS = [
    ("919986000000", "a0@ex.com"),
    ("9.19986E+11", "a1@ex.com"),
    ("12", "a2@ex.com"),
    ("", "a3@ex.com"),
    ("9.19986E+11", "a4@ex.com"),
    ("12", "nobody"),
]


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """Mobiles that a spreadsheet damaged, beside emails."""
    write_input(["mobile", "email"], ROWS)
    write_job(service.base_url)
    write_job(service.base_url, name="strict.toml", identifiers={"fall_back": False})
    return Scene(tmp_path, service)


SAID = (
    "3 of 6 rows go by email, as their mobile cannot be used (validate.mobile_scientific 2, validate.mobile_length 1); "
    "[identifiers] fall_back = false rejects them"
)


def rows_of(ledger):
    with ledger.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_said(scene):
    """In the dry run, the summary, the JSON document, the manifest, and each row's message."""
    dry = scene.do("run", "job.toml", "--dry-run")
    assert SAID in dry.out
    assert scene.do("run", "job.toml", "--dry-run", "--json").json["warnings"] == [SAID]
    ended = scene.do("run", "job.toml", "--yes")
    assert SAID in ended.out
    folder = scene.run_dir()
    assert json.loads((folder / "run.json").read_text())["fallbacks"] == [SAID]
    ledger = scene.judge().rows[folder.name]
    messages = {row["_bi_row"]: row["_bi_message"] for row in ledger.values()}
    assert messages["2"] == "sent by email, as the mobile cannot be used (validate.mobile_scientific)"
    assert messages["1"] == messages["4"] == ""
    assert len(scene.service.issued()) == 5


def test_it_is_rejected(scene):
    """With `fall_back = false` a row whose preferred identifier is there and unusable names nobody."""
    ended = scene.run(job="strict.toml")
    assert ended.json["reasons"] == {"validate.mobile_length": 2, "validate.mobile_scientific": 2}
    assert len(scene.service.issued()) == 2
    assert ended.json["warnings"] == []


def test_a_shared_identifier_is_passed_over(scene, write_input):
    """A row goes by its email where its mobile stands beside those of several; the message says so."""
    write_input(
        ["mobile", "email"],
        [("919986000011", "na@na.com"), ("919986000012", "na@na.com"), ("", "na@na.com")],
        "shared.csv",
    )
    ended = scene.run(path="shared.csv")
    assert ended.counts == {"rows": 3, "succeeded": 2, "rejected": 1}
    [message] = [row["_bi_message"] for row in rows_of(ended.run_dir / "failure.csv")]
    assert message.endswith("it stands also at shared.csv row 1, shared.csv row 2")
    ended = scene.run(job="strict.toml", path="shared.csv")
    assert ended.counts == {"rows": 3, "already_issued": 2, "rejected": 1}


def test_an_identifier_that_many_share(scene, write_input):
    """Some of the others are named, and the rest is counted."""
    rows = [(f"9199860{n:05}", "na@na.com") for n in range(9)]
    write_input(["mobile", "email"], [*rows, ("", "na@na.com"), ("", "NA@na.com")], "shared.csv")
    ended = scene.run(path="shared.csv")
    assert ended.counts == {"rows": 11, "succeeded": 9, "rejected": 2}
    messages = [row["_bi_message"] for row in rows_of(ended.run_dir / "failure.csv")]
    assert [message.endswith("shared.csv row 5 and 5 more") for message in messages] == [True, True]
