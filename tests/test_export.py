"""Export: one line for each thing issued, whatever became of the answer; the service's own books are the judge."""

import csv
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Ended, read_ledger
from scene import MOBILES, Scene

from bulkissue.commands.export import Period
from bulkissue.errors import SettingsRefused, UsageRefused
from bulkissue.results import issued, tables
from bulkissue.results.workbooks import MOST_ROWS
from bulkissue.sandbox import Fault, Running

Line = dict[str, str]


@pytest.fixture
def scene(tmp_path: Path, service: Running, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Scene:
    """Five files of ten customers, and a job that sends five in a request, one after the other."""
    for number in range(5):
        write_input(["mobile"], MOBILES[10 * number : 10 * number + 10], f"{number}.csv")
    write_job(
        service.base_url,
        limits={"batch_size": 5, "concurrency": 1, "max_attempts": 2},
        reconcile={"settle_after_seconds": 0},
    )
    return Scene(tmp_path, service)


def lose(scene: Scene, *, after: tuple[int, ...] = (), before: tuple[int, ...] = ()) -> None:
    """Order answers that are lost, after or before the effect, by number of the requests to come."""
    late = [Fault(kind="drop", when="after", nth=after, route="write")] if after else []
    early = [Fault(kind="drop", when="before", nth=before, route="write")] if before else []
    scene.service.order(*late, *early)


def lines_of(ended: Ended) -> list[Line]:
    return list(csv.DictReader(io.StringIO(ended.out)))


def export(scene: Scene, *arguments: object, code: int = 0) -> list[Line]:
    ended = scene.do("export", "job.toml", *arguments)
    assert ended.code == code, ended.err
    return lines_of(ended)


def totals(scene: Scene, *arguments: object, code: int = 0) -> dict[str, Any]:
    ended = scene.do("export", "job.toml", "--out", "out.csv", "--json", *arguments)
    assert ended.code == code, ended.err
    return ended.json


@pytest.fixture
def settled(scene: Scene) -> Scene:
    """Runs with answers, with rows read back, with a person's word, and a retry of what was not issued."""
    lose(scene, after=(1,))
    assert scene.run(path="0.csv").counts == {"rows": 10, "succeeded": 5, "unknown": 5}
    reconciled = scene.do("reconcile", "latest", "--json")
    assert reconciled.counts == {"rows": 10, "succeeded": 10}, reconciled.err
    lose(scene, after=(2,))
    assert scene.run(path="1.csv").counts == {"rows": 10, "succeeded": 5, "unknown": 5}
    said = ["--as", "issued", "--by", "Asha", "--evidence", f"ticket 4711, {MOBILES[15][0]}"]
    rows = [part for number in range(6, 11) for part in ("--row", f"1.csv:{number}")]
    assert scene.do("resolve", "latest", *rows, *said).code == 0
    lose(scene, before=(1,))
    assert scene.run(path="2.csv").counts == {"rows": 10, "succeeded": 5, "unknown": 5}
    assert scene.do("reconcile", "latest", "--json").counts == {"rows": 10, "succeeded": 5, "failed": 5}
    assert scene.do("retry", "latest", "--yes", "--json").counts == {"rows": 5, "succeeded": 5}
    return scene


def test_every_issue_stands_once(settled):
    """The lines are the service's books: each issue once, by its own proof, and how it is known."""
    books = {one["identifier"]: one["reference"] for one in settled.service.issued()}
    assert len(books) == 30
    found = export(settled)
    assert Counter(line["identifier"] for line in found) == Counter(list(books))
    assert Counter(line["how_known"] for line in found) == {"answer": 20, "reconcile": 5, "resolve": 5}
    for line in found:
        assert line["reference"] == ("" if line["how_known"] == "resolve" else books[line["identifier"]])
        assert bool(line["settled_at"]) == bool(line["evidence"]) == (line["how_known"] != "answer")
        assert (line["effect"], line["promotion_id"], line["environment"]) == ("earn", "69218", "127.0.0.1")
    assert {(line["said_by"], line["evidence"]) for line in found if line["how_known"] == "resolve"} == {
        ("Asha", f"ticket 4711, {MOBILES[15][0]}")
    }
    ledgers = [row for folder in settled.runs_dir.iterdir() for row in read_ledger(folder, "success")]
    places = [(row["_bi_run"], row["_bi_source_file"], row["_bi_row"]) for row in ledgers]
    assert sorted((line["run"], line["source_file"], line["row"]) for line in found) == sorted(places)


def test_totals_add_up_with_the_runs(settled):
    """The control totals of each run are its own counts, and their sum is what the service issued."""
    found = totals(settled)
    assert (found["lines"], found["complete"], found["missing"]) == (len(settled.service.issued()), True, [])
    for run in found["runs"]:
        counts = json.loads((settled.runs_dir / run["run"] / "run.json").read_bytes())["counts"]
        assert (run["rows"], run["issued"], run["unknown"]) == (counts["rows"], counts["succeeded"], counts["unknown"])
        assert run["exported"] == run["issued"] == run["answer"] + run["reconcile"] + run["resolve"]
    assert (settled.folder / "out.csv").stat().st_mode & 0o777 == 0o600
    assert lines_of(Ended(0, (settled.folder / "out.csv").read_text(), "")) == export(settled)


def test_the_formats_hold_the_same(settled):
    """CSV, Parquet and a workbook have the same cells, all text as it is; the workbook has the totals beside it."""
    for name in ("out.csv", "out.parquet", "out.xlsx"):
        assert settled.do("export", "job.toml", "--out", name).code == 0
    as_csv = pl.read_csv(settled.folder / "out.csv", infer_schema=False)
    as_parquet = pl.read_parquet(settled.folder / "out.parquet")
    assert as_parquet.schema == issued.SCHEMA
    assert as_parquet.with_columns(pl.all().cast(pl.String)).equals(as_csv)
    book = pl.read_excel(settled.folder / "out.xlsx", sheet_id=0, infer_schema_length=0, drop_empty_cols=False)
    assert book["issued"].select(as_csv.columns).with_columns(pl.all().cast(pl.String)).equals(as_csv)
    assert book["totals"]["exported"].to_list()[-1] == "30"
    assert [path.name for path in settled.folder.iterdir() if path.name.startswith(".")] == []


def test_without_identifiers(settled):
    """Nothing that is written or printed then names a customer, whatever a person typed as evidence."""
    ended = settled.do("export", "job.toml", "--without-identifiers")
    found = lines_of(ended)
    assert len(found) == 30
    assert not {"identifier", "customer_id"} & found[0].keys()
    mine = next(line for line in found if (line["source_file"], line["row"]) == ("1.csv", "6"))
    assert mine["evidence"] == "ticket 4711, …"
    others = [line["evidence"] for line in found if line["how_known"] == "reconcile"]
    assert not [known for (known,) in MOBILES[:30] for text in (*others, ended.err) if known in text]


def test_periods_that_follow_each_other(settled):
    """They leave nothing out and have nothing twice, and a run's totals say what lies outside."""
    whole = export(settled)
    times = sorted(line["sent_at"] for line in whole)
    middle = times[len(times) // 2]
    early, late = export(settled, "--to", middle), export(settled, "--from", middle)
    assert early
    assert late
    assert early + late == sorted(whole, key=lambda line: line["sent_at"] >= middle)
    found = totals(settled, "--to", middle)
    assert (found["lines"], sum(run["issued"] for run in found["runs"])) == (len(early), 30)
    today = times[0][:10]
    assert len(export(settled, "--from", today, "--to", times[-1][:10])) == 30
    before = (datetime.fromisoformat(today) - timedelta(days=1)).date()
    assert export(settled, "--to", before) == []


def test_unknown_rows_are_no_lines(scene):
    """Rows that may have been issued are counted beside the lines, and no line claims one."""
    lose(scene, after=(1,))
    scene.run(path="0.csv")
    found = totals(scene)
    assert (found["lines"], found["complete"], found["runs"][0]["unknown"]) == (5, True, 5)
    assert "5 rows are unknown" in scene.do("export", "job.toml").err


def test_edited_ledgers_do_not_matter(settled):
    """Who adds a line to success.csv, or takes one out, changes nothing."""
    before = export(settled)
    for folder in settled.runs_dir.iterdir():
        (folder / "success.csv").write_text("forged\n")
    assert export(settled) == before


def test_counts_that_differ(settled):
    """Where a run's journal and its own counts differ, that run is named, and nothing is written."""
    folder = settled.run_dir()
    manifest = json.loads((folder / "run.json").read_bytes())
    manifest["counts"] |= {"succeeded": 4, "failed": 1}
    (folder / "run.json").write_text(json.dumps(manifest))
    ended = settled.do("export", "job.toml", "--out", "out.csv")
    assert ended.code == 1
    assert folder.name in ended.err
    assert not (settled.folder / "out.csv").exists()
    assert settled.do("export", "job.toml").out == ""


def test_a_run_whose_folder_is_gone(settled):
    """It is named, and the totals are not complete; until a person says whom it issued."""
    folder = settled.run_dir()
    lost = read_ledger(folder, "success")
    shutil.rmtree(folder)
    found = totals(settled, code=3)
    assert (found["complete"], [one["run"] for one in found["missing"]]) == (False, [folder.name])
    assert found["lines"] == 30 - len(lost)
    assert folder.name in settled.do("export", "job.toml").err
    # A run cannot have sent anything before it began.
    assert totals(settled, "--to", "2020-01-01")["complete"]


def test_a_moved_run_is_found(settled):
    """A run whose folder lies in runs_dir, and not where it was registered, is read there."""
    moved = settled.folder / "elsewhere"
    settled.runs_dir.rename(moved)
    assert totals(settled, code=3)["lines"] == 0
    environ = {"BULKISSUE_RUNS_DIR": str(moved)}
    ended = settled.do("export", "job.toml", environ=environ)
    assert (ended.code, len(lines_of(ended))) == (0, 30)


def test_a_person_says_what_a_lost_run_issued(scene):
    """Then the customers named are lines, by that word and without a proof, and the totals are complete."""
    scene.run(path="0.csv", crash_at="intent.noted")
    folder = scene.run_dir()
    shutil.rmtree(folder)
    assert totals(scene, code=3)["missing"][0]["run"] == folder.name
    said = ["--as", "issued", "--issued-to", "0.csv", "--by", "Asha", "--evidence", "ticket 4711"]
    assert scene.do("resolve", folder.name, "--job", "job.toml", *said).code == 0
    found = export(scene)
    assert [line["identifier"] for line in found] == [mobile for (mobile,) in MOBILES[:10]]
    assert {(line["how_known"], line["said_by"], line["reference"]) for line in found} == {("resolve", "Asha", "")}
    [run] = totals(scene)["runs"]
    assert run["remark"] == "folder lost; a person's word"


def test_a_crashed_run(scene):
    """What is known of it are lines, and the totals are not complete until it has come to its end."""
    scene.run(path="0.csv")
    scene.run(path="1.csv", crash_at="answer.noted")
    found = totals(scene, code=3)
    assert not found["complete"]
    assert [run["remark"] for run in found["runs"]] == ["", "has not come to its end"]
    issued_so_far = {one["identifier"] for one in scene.service.issued()}
    assert {line["identifier"] for line in export(scene, code=3)} <= issued_so_far
    scene.resume()
    scene.do("reconcile", "latest")
    assert totals(scene)["lines"] == len(scene.service.issued())


@pytest.mark.parametrize("place", ["sending.ended", "ledgers.written", "journal.closed", "manifest.finished"])
def test_killed_while_the_books_are_written(place, scene):
    """Neither a run nor a reconcile that is killed there is taken for broken books; both may be ended."""
    lose(scene, after=(1,))
    scene.run(path="0.csv")
    scene.do("reconcile", "latest", crash_at=place)
    whole = place == "manifest.finished"
    assert totals(scene, code=0 if whole else 3)["lines"] == 10
    scene.do("reconcile", "latest")
    assert totals(scene)["lines"] == 10
    scene.run(path="1.csv", crash_at=place)
    assert totals(scene, code=0 if whole else 3)["lines"] == 20
    assert scene.resume().code == 0
    assert totals(scene)["lines"] == len(scene.service.issued()) == 20


def test_a_run_that_the_register_forgot(settled):
    """A run in runs_dir that the register does not know issued all the same: its lines are there, and that is said."""
    run_id = settled.run_dir().name
    for entry in settled.folder.glob(f"state/**/{run_id}.json"):
        entry.unlink()
    found = totals(settled)
    assert found["lines"] == 30
    assert [run["run"] for run in found["runs"] if run["remark"] == "not in the register"] == [run_id]


def test_another_target_is_left_out(settled, write_job):
    """Another promotion, another occasion and a rehearsal are no part of the job's target."""
    write_job(settled.service.base_url, name="other.toml", target={"program_id": 469, "promotion_id": 7})
    write_job(settled.service.base_url, name="again.toml", job={"occasion": "again"})
    for job in ("other.toml", "again.toml"):
        assert settled.run(path="0.csv", job=job).code == 0
    assert settled.do("run", "job.toml", "--input", "3.csv", "--sandbox", "--json").code == 0
    assert len(export(settled)) == 30
    [*again] = export(settled, "--occasion", "again")
    assert {line["occasion"] for line in again} == {"again"}
    assert len(again) == 10


def test_nothing_issued_yet(scene, write_input):
    """An export without a line has its header; without a state folder it is refused, as nobody knows what there was."""
    ended = scene.do("export", "job.toml")
    assert (ended.code, ended.out) == (3, "")
    write_input(["mobile"], [("12",)])
    assert scene.run().code == 5
    assert scene.do("export", "job.toml").out.strip().split(",") == list(issued.SCHEMA)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "parquet"),
        ("--format", "xlsx"),
        ("--json",),
        ("--from", "yesterday"),
        ("--to", "2026-13-01"),
        ("--from", "2026-02-01", "--to", "2026-01-01"),
    ],
)
def test_usage(scene, arguments):
    """What cannot be done is refused before anything is read."""
    ended = scene.do("export", "job.toml", *arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_bounds_of_a_period():
    """A day is a UTC day and the last one is whole; a time may have another zone; what is neither is refused."""
    assert Period.of("2026-11-01", "2026-11-30") == Period("2026-11-01T00:00:00.000Z", "2026-12-01T00:00:00.000Z")
    assert Period.of("2026-11-01T05:30:00+05:30", None).since == "2026-11-01T00:00:00.000Z"
    assert Period.of("2026-11-01T05:30", None).since == "2026-11-01T05:30:00.000Z"
    with pytest.raises(UsageRefused, match="neither a day nor a time"):
        Period.of("1.11.2026", None)


def test_a_workbook_keeps_text(tmp_path):
    """What looks like a formula, a number or a link stays the text it is; more lines than a sheet holds are refused."""
    texts = ["=1+1", "00042", "+919986000586", "https://example.com", "1e5", "x" * 40_000]
    part = tmp_path / "part.parquet"
    pl.DataFrame({"text": texts}).write_parquet(part)
    out = tmp_path / "out.xlsx"
    tables.write(out, [part], pl.Schema({"text": pl.String()}), "xlsx", beside={"totals": [("lines",), (6,)]})
    found = pl.read_excel(out, sheet_name="issued", infer_schema_length=0)["text"].to_list()
    assert found == [*texts[:-1], "x" * 32_767]
    pl.DataFrame({"text": ["x"]}).select(pl.col("text").repeat_by(MOST_ROWS + 1).explode()).write_parquet(part)
    with pytest.raises(UsageRefused, match="a sheet holds 1,048,575 lines"):
        tables.write(out, [part], pl.Schema({"text": pl.String()}), "xlsx", beside={})


def test_without_xlsxwriter(tmp_path, monkeypatch):
    """Where XlsxWriter is not installed a workbook is refused with what to install, and no file is left."""
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(SettingsRefused, match="XlsxWriter") as refused:
        tables.write(tmp_path / "out.xlsx", [], issued.SCHEMA, "xlsx", beside={})
    assert "bulkissue[xlsx]" in str(refused.value.hint)
    assert list(tmp_path.iterdir()) == []
