"""Personal data that goes: of whole runs when their time has come, of one customer by request."""

import io
import json
import sqlite3
import zipfile
from contextlib import closing

import polars as pl
import pytest
from scene import Scene

from bulkissue import failpoint
from bulkissue.sandbox import Fault

PLACES = [*failpoint.PLACES_OF_REDACTION, "redaction.moved:4"]
ERASING = [*failpoint.PLACES_OF_ERASURE, *PLACES]
HER = ("919986000700", "mira@example.com", "Mira Sample", "A 700")
ROWS = [
    ("919986000701", "bob@example.com", "Bob", ""),
    HER,
    ("+91 99860-00702", "", "Zoe", "ask for mira@example.com"),
    ("", "mira@example.com", "M. Sample", ""),  # a duplicate of her, by the email that stands beside her mobile
    ("12", "nobody", "Mira S", "919986000700"),  # rejected; her number in a note
    *((f"9199860008{number:02}", "", f"Customer {number}", "") for number in range(20)),
]
HERS = ("919986000700", "9986000700", "mira@example.com", "Mira", "M. Sample", "A 700")


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """Two settled runs of two targets with all kinds of ledgers, and a rehearsal; she is in all of them."""
    write_input(["mobile", "email", "name", "note"], ROWS)
    write_job(service.base_url, limits={"batch_size": 5}, output={"formats": ["csv", "parquet", "xlsx"]})
    found = Scene(tmp_path, service)
    found.run()
    found.do("run", "job.toml", "--occasion", "again", "--yes", "--json")
    found.do("run", "job.toml", "--sandbox", "--json")
    return found


def contents(path):
    """What a file holds, as bytes: also what is compressed in it, and freed pages of a database."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        yield pl.read_parquet(path).write_csv().encode()
    elif path.suffix == ".xlsx":
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            yield from (book.read(name) for name in book.namelist())
    elif path.name == "journal.db":
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            yield "\n".join(database.iterdump()).encode()


def where(scene, words):
    """The files below the scene, its own input aside, that hold one of the words."""
    return sorted(
        str(path.relative_to(scene.folder))
        for part in (scene.runs_dir, scene.folder / "state", scene.folder / "state-sandbox")
        for path in part.rglob("*")
        if path.is_file() and any(word.encode() in content for content in contents(path) for word in words)
    )


def erase(scene, *more, **how):
    return scene.do("erase", "job.toml", "--identifier", "-", "--yes", *more, stdin="919986000700\n", **how)


def sound(scene):
    """Every run's books are proven."""
    for folder in scene.runs_dir.iterdir():
        proven = scene.do("verify", folder, "--json")
        assert (proven.code, proven.json["wrong"]) == (0, []), folder


def test_erasing_a_customer(scene):
    """Nothing of her is left in any byte, everybody else is as before, and the books are sound."""
    assert len(where(scene, HERS)) > 10
    counts = {folder.name: json.loads((folder / "run.json").read_text())["counts"] for folder in real(scene)}
    erased = erase(scene)
    assert erased.code == 0
    receipt = json.loads(erased.out)
    assert where(scene, HERS) == []
    assert not any(word in erased.out + erased.err for word in HERS)
    assert [run["rows"] for run in receipt["runs"] if "rows" in run] == [
        ["input.csv row 2", "input.csv row 4", "input.csv row 5"]
    ] * 2
    assert [run for run in receipt["runs"] if "rehearsal" in run]
    kept = list((scene.folder / "state" / "erasures").iterdir())
    assert [json.loads(path.read_text()) for path in kept] == [receipt]
    for folder in real(scene):
        manifest = json.loads((folder / "run.json").read_text())
        assert manifest["counts"] == counts[folder.name]
        ledger = pl.read_csv(folder / "success.csv", infer_schema=False)
        assert ledger.filter(pl.col("_bi_identifier") == "919986000701")["name"].to_list() == ["Bob"]
        hers = ledger.filter(pl.col("_bi_row") == "2")
        assert hers["_bi_reference"].item() is not None
        assert hers.select("mobile", "email", "name", "note", "_bi_identifier", "_bi_customer_id").row(0) == (None,) * 6
        noted = ledger.filter(pl.col("_bi_row") == "3")
        assert noted.select("name", "note").row(0) == ("Zoe", None)
        verified = scene.do("verify", folder)
        assert "3 rows were erased by request" in verified.out
        assert "Bob" not in (folder / "report.html").read_text()
    sound(scene)


def real(scene):
    return [
        folder
        for folder in sorted(scene.runs_dir.iterdir())
        if not json.loads((folder / "run.json").read_text())["rehearsal"]
    ]


def test_who_was_erased_is_not_issued_again(scene, write_input):
    """Her digest prevents a second issue, also after the state folder was rebuilt from the run folders."""
    erase(scene)
    write_input(["mobile", "email"], [(HER[0], "")], name="hers.csv")
    again = scene.run(path="hers.csv")
    assert again.counts == {"rows": 1, "already_issued": 1}
    for history in (scene.folder / "state").rglob("history/*.parquet"):
        history.unlink()
    assert scene.run(path="hers.csv").counts == {"rows": 1, "already_issued": 1}
    assert len(scene.service.issued()) == 2 * 23
    history = scene.do("history", "job.toml", "--identifier", "-", "--json", stdin=HER[0] + "\n")
    assert len(history.json["issued"]) == 1


@pytest.mark.parametrize("place", ERASING)
def test_killed_while_erasing(scene, place):
    """Whenever it is killed: run again it completes, and no half of anything is taken for whole in between."""
    erase(scene, crash_at=place)
    erased = erase(scene)
    assert erased.code == 0
    assert where(scene, HERS) == []
    sound(scene)


@pytest.mark.parametrize("place", [*ERASING, "redaction.moved:9"])
def test_killed_between_two_runs(tmp_path, service, write_input, write_job, place):
    """What one run alone tells of her is not forgotten with that run: her email goes from the others."""
    write_job(service.base_url)
    scene = Scene(tmp_path, service)
    for number, row in enumerate([("919986000700", "mira@example.com"), ("", "mira@example.com")]):
        write_input(["mobile", "email"], [row, ("919986000701", "")], name="input.csv")
        scene.do("run", "job.toml", "--occasion", str(number), "--yes", "--json")
    erase(scene, crash_at=place)
    assert scene.do("verify", scene.run_dir()).code in {0, 3}
    held = scene.folder / "state" / "erasing.json"
    assert held.stat().st_mode & 0o077 == 0
    erased = erase(scene)
    assert erased.code == 0
    assert where(scene, ("919986000700", "mira@example.com")) == []
    assert [run["rows"] for run in json.loads(erased.out)["runs"]] == [["input.csv row 1"]] * 2
    assert not held.exists()
    assert len(list((scene.folder / "state" / "erasures").iterdir())) == 1
    sound(scene)


def test_a_row_that_is_not_settled(scene, write_input):
    """Who is unknown is not erased: the service has yet to be asked; nothing is erased then."""
    write_input(["mobile", "email"], [HER[:2]], name="late.csv")
    scene.service.order(Fault(kind="drop"))
    scene.do("run", "job.toml", "--input", "late.csv", "--occasion", "third", "--yes")
    before = where(scene, HERS)
    refused = erase(scene)
    assert refused.code == 3
    assert "late.csv row 1 of run" in refused.err
    assert where(scene, HERS) == before


def test_what_erase_refuses(scene):
    """An identifier on the command line, none at all, nonsense, and no word that it is meant."""
    shown = scene.do("erase", "job.toml", "--identifier", HER[0], "--yes")
    assert (shown.code, HER[0] in shown.err) == (2, False)
    assert scene.do("erase", "job.toml", "--identifier", "-", "--yes", stdin="\n").code == 2
    assert scene.do("erase", "job.toml", "--identifier", "-", "--yes", stdin="?" * 60 + "\n").code == 2
    assert scene.do("erase", "job.toml", "--identifier", "-", stdin=HER[0] + "\n").code == 2
    nobody = scene.do("erase", "job.toml", "--identifier", "-", "--yes", stdin="919986009999\n")
    assert (nobody.code, json.loads(nobody.out)["runs"]) == (0, [])


def everybody():
    return [part for row in ROWS for part in row if len(part) > 2]


def test_purging(scene, write_input):
    """Who the customers were goes; counts, proofs and the memory stay, and so do all commands that only look."""
    assert scene.do("purge", "job.toml").code == 2
    assert scene.do("purge", "job.toml", "--older-than", "1d", "--json").json["runs"] == []
    planned = scene.do("purge", "job.toml", "--older-than", "0d", "--dry-run", "--json")
    assert len(planned.json["runs"]) == 3
    before = where(scene, everybody())
    counts = {folder.name: json.loads((folder / "run.json").read_text())["counts"] for folder in real(scene)}
    assert len(before) > 10
    purged = scene.do("purge", "job.toml", "--older-than", "0d", "--json")
    assert [run["run_id"] for run in purged.json["runs"]] == [run["run_id"] for run in planned.json["runs"]]
    assert where(scene, everybody()) == []
    assert len(list(scene.runs_dir.iterdir())) == 2
    for folder in real(scene):
        manifest = json.loads((folder / "run.json").read_text())
        assert manifest["counts"] == counts[folder.name]
        ledger = pl.read_csv(folder / "success.csv", infer_schema=False)
        assert ledger["_bi_reference"].null_count() == 0
        assert ledger["_bi_identifier"].null_count() == ledger.height
        assert "purged at" in scene.do("verify", folder).out
        assert scene.do("status", folder).code == 0
        for command in (["retry", folder, "--yes"], ["reconcile", folder], ["resume", folder, "--yes"]):
            refused = scene.do(*command)
            assert refused.code in {2, 3}
            assert "was purged" in refused.err
    sound(scene)
    assert scene.do("state", "check", "job.toml").code == 0
    exported = scene.do("export", "job.toml", "--out", "all.csv")
    assert exported.code == 0
    assert pl.read_csv(scene.folder / "all.csv")["identifier"].null_count() > 20
    assert scene.do("purge", "job.toml", "--older-than", "0d", "--json").json["runs"] == []
    assert scene.run().counts["already_issued"] == 23


@pytest.mark.parametrize("place", PLACES)
def test_killed_while_purging(scene, place):
    """Whenever it is killed: run again it completes, and nobody is issued twice."""
    scene.do("purge", "job.toml", "--older-than", "0d", crash_at=place)
    assert scene.do("purge", "job.toml", "--older-than", "0d").code == 0
    assert where(scene, everybody()) == []
    sound(scene)
    assert scene.run().counts["already_issued"] == 23


def test_what_is_not_purged(scene, write_input):
    """A run with unknown rows stays as it is, whatever its age, and so does a young one with `keep_days`."""
    write_input(["mobile", "email"], [("919986000999", "")], name="late.csv")
    scene.service.order(Fault(kind="drop"))
    scene.do("run", "job.toml", "--input", "late.csv", "--occasion", "third", "--yes")
    scene.do("purge", "job.toml", "--older-than", "0d")
    assert len(where(scene, ["919986000999"])) > 2


def test_after_a_purge_with_another_key(scene):
    """Digests of a state folder that is gone find nobody: the target stops instead of issuing again."""
    scene.do("purge", "job.toml", "--older-than", "0d")
    (scene.folder / "state").rename(scene.folder / "lost")
    scene.do("run", "job.toml", "--yes", "--init-state", "--limit", "0")
    rebuilt = scene.do("state", "rebuild", "job.toml")
    assert rebuilt.code == 3
    assert "another state folder" in rebuilt.err
