"""Verify: the books are proven again from plan and journal alone, and what somebody edited is found."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from scene import MOBILES, Scene

from bulkissue.sandbox import Fault, Running


@pytest.fixture
def scene(tmp_path: Path, service: Running) -> Scene:
    return Scene(tmp_path, service)


@pytest.fixture
def run_dir(scene: Scene, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Path:
    """A settled run with rows in all four ledgers."""
    write_input(["mobile", "name"], [(mobile, "n") for (mobile,) in [*MOBILES[:20], MOBILES[0], ("12",)]])
    write_job(
        scene.service.base_url, limits={"batch_size": 5, "concurrency": 1}, output={"formats": ["csv", "parquet"]}
    )
    scene.service.order(Fault(kind="drop", nth=(2,)))
    ended = scene.run()
    assert ended.counts == {"rows": 22, "succeeded": 15, "unknown": 5, "duplicate": 1, "rejected": 1}
    return ended.run_dir


def wrong(scene: Scene, run_dir: Path) -> str:
    """What verify has to say against a run."""
    proven = scene.do("verify", run_dir, "--json")
    assert proven.code == (1 if proven.json["wrong"] else 0)
    return "\n".join(proven.json["wrong"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_sound_books(scene, run_dir):
    """Sound books are proven as often as one likes, and by whoever has only the run folder; nothing is changed."""
    before = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
    for _ in range(2):
        assert not wrong(scene, run_dir)
    (scene.folder / "input.csv").unlink()
    shutil.rmtree(scene.folder / "state")
    moved = run_dir.rename(scene.folder / "moved")
    assert not wrong(scene, moved)
    # SQLite may leave its index behind, and nothing else.
    after = {path.name: path.read_bytes() for path in moved.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"journal.db-shm", "journal.db-wal"}


def test_the_input_has_changed_since(scene, run_dir):
    """An inbox in which the next file has the same name says nothing against a run's books, and is said."""
    (scene.folder / "input.csv").write_text("mobile\n919999999999\n")
    assert not wrong(scene, run_dir)
    (note,) = scene.do("verify", run_dir, "--json").json["notes"]
    assert note.endswith("input.csv is not as it was read")


@pytest.mark.parametrize("ledger", ["success", "failure", "unknown", "duplicate"])
def test_an_edited_ledger(ledger, scene, run_dir):
    """One changed character in a ledger is found, and the ledger named."""
    edit(run_dir / f"{ledger}.csv", "input.csv", "input.CSV")
    assert f"{ledger}.csv" in wrong(scene, run_dir)


def test_an_edited_ledger_whose_digest_was_mended_too(scene, run_dir):
    """Who edits a ledger and its digest in run.json is found out by plan and journal."""
    edit(run_dir / "success.csv", "9199860", "9199861")
    import hashlib

    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["ledgers"]["success.csv"]["sha256"] = hashlib.sha256((run_dir / "success.csv").read_bytes()).hexdigest()
    (run_dir / "run.json").write_text(json.dumps(manifest))
    assert "success.csv is not what plan and journal give" in wrong(scene, run_dir)


def test_a_ledger_or_its_parquet_twin_is_missing(scene, run_dir):
    """A ledger that is gone is found, in either format."""
    (run_dir / "unknown.csv").unlink()
    (run_dir / "failure.parquet").unlink()
    found = wrong(scene, run_dir)
    assert "unknown.csv" in found
    assert "failure.parquet" in found


def test_edited_counts(scene, run_dir):
    """Counts in run.json that plan and journal do not give are found."""
    edit(run_dir / "run.json", '"succeeded": 15', '"succeeded": 20')
    edit(run_dir / "run.json", '"unknown": 5', '"unknown": 0')
    assert "run.json" in wrong(scene, run_dir)


@pytest.mark.parametrize("name", ["plan.parquet", "input.parquet", "job.toml"])
def test_an_edited_plan(name, scene, run_dir):
    """A plan, input or job that is not the one the run was started with is found."""
    if name == "job.toml":
        edit(run_dir / name, "69218", "69219")
    else:
        rows = pl.read_parquet(run_dir / name)
        rows.write_parquet(run_dir / name, compression="uncompressed")
    assert name in wrong(scene, run_dir)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            "UPDATE answer SET results = replace(results, '\"succeeded\"', '\"failed\"') WHERE attempt = 1",
            "success.csv",
        ),
        ("DELETE FROM answer WHERE attempt = 3", "success.csv"),
        ("DELETE FROM answer WHERE attempt = 4; DELETE FROM intent WHERE attempt = 4", "neither an outcome"),
        ("INSERT INTO intent SELECT 9, 1, rows, sent_at FROM intent WHERE attempt = 1", "sent again"),
        ("UPDATE intent SET rows = '[0,1,2,3,20]' WHERE attempt = 1", "although the plan settles it"),
        ("INSERT INTO held VALUES (0, 'dedupe.issued', 'x')", "held back"),
        (
            "INSERT INTO settlement VALUES (1, 0, 'failed', 'resolve.not_issued', 'x', '', 'Asha', 'x', 1)",
            "not unknown",
        ),
    ],
)
def test_an_edited_journal(change, what, scene, run_dir):
    """A journal in which somebody took out, added or changed an entry no longer gives the ledgers."""
    with closing(sqlite3.connect(run_dir / "journal.db")) as journal:
        journal.executescript(change)
    found = wrong(scene, run_dir)
    assert what in found


def test_a_damaged_journal(scene, run_dir):
    """A journal that is no journal any more is said to be so."""
    (run_dir / "journal.db").write_bytes(b"x" * 5000)
    assert "journal.db" in wrong(scene, run_dir)


def test_a_run_without_ledgers(scene, run_dir, write_input):
    """A run that crashed has no books to prove yet: exit 3, and what to do."""
    write_input(["mobile"], MOBILES[100:120])
    scene.run("answer.noted")
    refused = scene.do("verify", "latest", "--json")
    assert (refused.code, "resume" in refused.json["error"]["hint"]) == (3, True)
