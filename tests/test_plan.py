"""The plan's batches, as they are read back for sending."""

from itertools import chain
from pathlib import Path

import polars as pl
import pytest

from bulkissue.input.intake import take_in
from bulkissue.job.loading import load
from bulkissue.job.model import Job
from bulkissue.plan import plan
from bulkissue.state import history
from bulkissue.state.entries import NEVER_SENT, ONLY_VOID, SENT

JOB = """
config_version = 1
[job]
name = "j"
action = "earn"
[target]
program_id = 1
promotion_id = 2
[input]
paths = ["in.csv"]
[identifiers]
default_source = "INSTORE"
[api]
base_url = "https://api.example.com"
[api.limits]
batch_size = 3
"""


def drawn(folder: Path, lines: list[str], header: str = "Mobile,Email,Account") -> tuple[plan.Plan, Job]:
    """The plan of a file with these lines, in `folder`."""
    (folder / "job.toml").write_text(JOB)
    (folder / "in.csv").write_text("\n".join([header, *lines]))
    job = load(folder / "job.toml", environ={}).job
    out = folder / "input.parquet"
    intake = take_in([folder / "in.csv"], base=folder, settings=job.input, target="t", out=out)
    return plan.draw(out, intake, job, history.nobody(), limit=None, out=folder / "plan.parquet"), job


@pytest.fixture
def mixed(tmp_path: Path) -> plan.Plan:
    """Mobiles and emails in turns, some of them unusable, in batches of three."""
    lines = [f"91998600{number:04},,A{number % 3}" if number % 3 else f",m{number}@ex.com," for number in range(40)]
    lines[7] = "12,,"
    return drawn(tmp_path, lines)[0]


@pytest.mark.parametrize("held_at_once", [3, 4, 1 << 17])
@pytest.mark.parametrize("some_sent", [False, True])
def test_batches(held_at_once, some_sent, mixed, tmp_path, monkeypatch):
    """Every unsent row stands once, in its batch, in order, whatever is held at once; `left` counts just these."""
    monkeypatch.setattr(plan, "_ROW_GROUP", held_at_once)
    marks = bytearray([SENT, NEVER_SENT, ONLY_VOID, SENT, SENT] * 8 if some_sent else 40)
    path = tmp_path / "plan.parquet"
    found = list(plan.batches(path, mixed, marks))
    rows = pl.read_parquet(path).filter(pl.col("batch").is_not_null())
    rows = rows.filter([marks[row] != SENT for row in rows["row"]]).sort("batch", "row")
    assert list(chain.from_iterable(batch.rows for batch in found)) == rows["row"].to_list()
    assert list(chain.from_iterable(batch.identifiers for batch in found)) == rows["identifier"].to_list()
    accounts = list(chain.from_iterable(batch.accounts for batch in found))
    assert accounts == rows["account_id"].fill_null("").to_list()
    assert set(chain.from_iterable(batch.sources for batch in found)) == {"INSTORE"}
    numbers = list(chain.from_iterable([batch.number] * len(batch.rows) for batch in found))
    assert numbers == rows["batch"].to_list()
    assert len({batch.number for batch in found}) == len(found)
    assert plan.left(path, marks) == (rows.height, len(found))
    if not some_sent:
        assert [batch.rows for batch in plan.batches(path, mixed)] == [batch.rows for batch in found]


def test_what_another_run_issued_is_held(mixed, tmp_path):
    """Of the rows still to be sent those whom history has are held; of rows that were sent nothing is asked."""
    issued = {"identifier_type": "mobile", "outcome": "succeeded", "run": "r9"}
    keys = [f"91998600{number:04}" for number in (1, 2, 4)]
    digests = history.Digests("k")
    told = pl.LazyFrame([{**issued, "compare_key": key} for key in keys], schema=history.RUN_SCHEMA)
    known = history.History(digests.digested(told), digests)
    marks = bytearray(40)
    marks[2] = SENT
    held = plan.hold(tmp_path / "plan.parquet", marks, known, load(tmp_path / "job.toml", environ={}).job)
    assert held.rows() == [(row, "dedupe.issued", "issued in run r9") for row in (1, 4)]
    assert mixed.to_send == 39


def test_names_in_conflicts(tmp_path):
    """A conflict names five others at most, and says how many more there are; a repeat names the first row."""
    lines = [*(f"919986000586,,{'B' if number == 6 else 'A'}" for number in range(8)), *["919986000587,,"] * 3]
    numbers, job = drawn(tmp_path, lines)
    messages = pl.read_parquet(tmp_path / "plan.parquet")["message"].to_list()
    assert all(message.endswith(" and 2 more") for message in messages[:8])
    assert all(f" in.csv row {number + 1}," not in message for number, message in enumerate(messages[:8]))
    assert messages[8:] == [None, *["the same customer stands at in.csv row 9"] * 2]
    assert numbers == plan.load(tmp_path / "plan.parquet", job)
    assert numbers.reasons == {"dedupe.conflict": 8, "dedupe.same_identifier": 2}


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["1234567890123450", "2234567890123000", "77", "3234567890123400"], True),
        (["1234567890123450", "2234567890123000", "3234567890123401"], False),
        (["1234567890123450", "2234567890123000"], False),  # may be chance
        (["123456789012340", "223456789012300", "323456789012340"], False),  # a spreadsheet keeps them
    ],
)
def test_ids_that_a_spreadsheet_rounded(tmp_path, ids, said):
    """Long ids that all end in 0 are said."""
    numbers, _ = drawn(tmp_path, ids, header="External Id")
    assert numbers.to_send == len(ids)
    assert any("a spreadsheet may have rounded them" in sentence for sentence in numbers.fell_back()) == said
