"""Settling by hand: what a person says of unknown rows, and what follows from it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ended, read_ledger, read_ledgers
from scene import MOBILES, Scene, journal_rows

from bulkissue.sandbox import Fault, Running

WORD = ("--by", "Asha", "--evidence", "ticket 4711")


@pytest.fixture
def scene(tmp_path: Path, service: Running) -> Scene:
    return Scene(tmp_path, service)


@pytest.fixture
def first(scene: Scene, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Ended:
    """A run of 20 rows over two files, ten of them unknown: five issued, five not."""
    write_input(["mobile", "name"], [(mobile, f"n{n}") for n, (mobile,) in enumerate(MOBILES[:13])], name="a.csv")
    write_input(["mobile", "name"], [(mobile, 'é,\n"') for (mobile,) in MOBILES[13:20]], name="b.csv")
    write_job(scene.service.base_url, limits={"batch_size": 5, "concurrency": 1}, input={"paths": ["a.csv", "b.csv"]})
    scene.service.order(Fault(kind="drop", when="after", nth=(2,)), Fault(kind="drop", when="before", nth=(3,)))
    ended = scene.do("run", "job.toml", "--yes", "--json")
    assert ended.counts == {"rows": 20, "succeeded": 10, "unknown": 10}, ended.err
    return ended


def unknown(run_dir: Path) -> list[tuple[str, str]]:
    return [(row["_bi_source_file"], row["_bi_row"]) for row in read_ledger(run_dir, "unknown")]


def test_one_row(scene, first):
    """One row settled as issued: ledgers, counts, digests, journal and history follow, and the others stay unknown."""
    file, number = unknown(first.run_dir)[0]
    ended = scene.do("resolve", "latest", "--row", f"{file}:{number}", "--as", "issued", *WORD, "--json")
    assert (ended.code, ended.counts) == (6, {"rows": 20, "succeeded": 11, "unknown": 9})
    row = read_ledgers(first.run_dir)[file, int(number)]
    assert (row["_bi_outcome"], row["_bi_reason"]) == ("succeeded", "resolve.issued")
    assert "Asha" in row["_bi_message"]
    assert "ticket 4711" in row["_bi_message"]
    said = list(journal_rows(first.run_dir, "SELECT outcome, settled_by, evidence, settled_at > 0 FROM settlement"))
    assert said == [("succeeded", "Asha", "ticket 4711", 1)]
    asked = scene.do("history", "job.toml", "--identifier", row["_bi_identifier"], "--json").json["issued"]
    assert [line["outcome"] for line in asked] == ["succeeded"]
    scene.judge()


def test_several_rows_as_not_issued(scene, first):
    """Rows settled as not issued are failures that may be sent again, once."""
    effects = {one["identifier"] for one in scene.service.issued()}
    lost = [row for row in read_ledger(first.run_dir, "unknown") if row["_bi_identifier"] not in effects]
    rows = [part for row in lost for part in ("--row", f"{row['_bi_source_file']}:{row['_bi_row']}")]
    ended = scene.do("resolve", "latest", *rows, "--as", "not-issued", *WORD, "--json")
    assert (ended.code, ended.counts) == (6, {"rows": 20, "succeeded": 10, "failed": 5, "unknown": 5})
    assert ended.json["reasons"] == {"resolve.not_issued": 5, "net.protocol_error": 5}
    failed = read_ledger(first.run_dir, "failure")
    assert [row["mobile"] for row in failed] == [row["mobile"] for row in lost]
    again = scene.do("retry", "latest", "--yes", "--json")
    assert (again.code, again.counts) == (0, {"rows": 5, "succeeded": 5})
    twice = scene.do("retry", first.json["run_id"], "--yes", "--json")
    assert twice.counts == {"rows": 5, "already_issued": 5}, "twice in a row is harmless"
    scene.judge()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_file_of_words(delimiter, *, scene, first):
    """A copy of unknown.csv with a column named as settles several rows; lines that say nothing stay unknown."""
    effects = {one["identifier"] for one in scene.service.issued()}
    rows = read_ledger(first.run_dir, "unknown")
    for place, row in enumerate(rows):
        row["as"] = "" if not place else "Issued" if row["_bi_identifier"] in effects else "not issued"
    with (scene.folder / "mended.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    ended = scene.do("resolve", "latest", "--from", "mended.csv", *WORD, "--json")
    assert (ended.code, ended.counts["unknown"]) == (6, 1), ended.err
    assert ended.counts["succeeded"] + ended.counts["failed"] == 19
    scene.judge()
    last = read_ledger(first.run_dir, "unknown")[0]
    name = f"{last['_bi_source_file']}:{last['_bi_row']}"
    finding = "issued" if last["_bi_identifier"] in effects else "not-issued"
    ended = scene.do("resolve", "latest", "--row", name, "--as", finding, *WORD, "--json")
    assert (ended.code, ended.json["state"]) == (5, "completed")
    scene.judge()


def test_a_file_with_its_own_words(scene, first):
    """A file may say for each row who settled it and why."""
    lines = ["file,row,as,by,evidence", *(f"{file},{row},issued,Ravi,mail" for file, row in unknown(first.run_dir))]
    (scene.folder / "words.csv").write_text("\n".join(lines))
    ended = scene.do("resolve", "latest", "--from", "words.csv", "--json")
    assert (ended.code, ended.counts) == (0, {"rows": 20, "succeeded": 20})
    assert set(journal_rows(first.run_dir, "SELECT settled_by, evidence FROM settlement")) == {("Ravi", "mail")}


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--row", "a.csv:1", "--as", "issued", *WORD], 2, "a.csv:1 is not among this run's unknown rows"),
        (["--row", "a.csv:99", "--as", "issued", *WORD], 2, "a.csv:99"),
        (["--row", "b.csv", "--as", "issued", *WORD], 2, "names no row"),
        (["--row", "0", "--as", "issued", *WORD], 2, "names no row"),
        (["--row", "a.csv:6", "--as", "maybe", *WORD], 2, "maybe"),
        (["--row", "a.csv:6", *WORD], 2, "--as"),
        (["--row", "a.csv:6", "--as", "issued", "--by", "Asha"], 2, "--evidence"),
        ([], 2, "nothing to settle"),
    ],
)
def test_words_that_settle_nothing(arguments, code, what, scene, first):
    """A word about a row that is not unknown, or half a word, is refused; the books stay as they are."""
    before = (first.run_dir / "run.json").read_bytes()
    rows = ["--row", "a.csv:6", *arguments] if arguments[:1] == ["--row"] and arguments[2:] else arguments
    refused = scene.do("resolve", "latest", *rows)
    assert refused.code == code
    assert what in refused.err
    assert json.loads(before)["counts"] == json.loads((first.run_dir / "run.json").read_bytes())["counts"]
    assert not list(journal_rows(first.run_dir, "SELECT * FROM settlement"))
    scene.judge()


def test_the_same_word_again(scene, first):
    """A file of words may be given again, with more in it than before: what was said stays said, once."""
    names = [f"{file}:{row}" for file, row in unknown(first.run_dir)]
    rows = [["--row", name] for name in names]
    once = scene.do("resolve", "latest", *rows[0], *rows[0], "--as", "issued", *WORD, "--json")
    assert once.counts["unknown"] == 9
    again = scene.do("resolve", "latest", *rows[0], *rows[1], "--as", "issued", "--by", "Ravi", *WORD[2:], "--json")
    assert (again.code, again.counts["unknown"]) == (6, 8), again.err
    assert list(journal_rows(first.run_dir, "SELECT settled_by FROM settlement")) == [("Asha",), ("Ravi",)]
    ledgers = read_ledgers(first.run_dir)
    nothing_new = scene.do("resolve", "latest", *rows[0], "--as", "issued", *WORD, "--json")
    assert (nothing_new.code, nothing_new.counts["unknown"]) == (6, 8)
    assert read_ledgers(first.run_dir) == ledgers
    scene.judge()


def test_words_about_another_run(scene, first, write_input):
    """A copy of another run's unknown ledger settles nothing here, though files and numbers are the same."""
    rows = read_ledger(first.run_dir, "unknown")
    for row in rows:
        row["as"] = "not-issued"
    with (scene.folder / "found.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    write_input(["mobile", "name"], [(mobile, "m") for (mobile,) in MOBILES[100:113]], name="a.csv")
    write_input(["mobile", "name"], [(mobile, "m") for (mobile,) in MOBILES[113:120]], name="b.csv")
    scene.service.order(Fault(kind="drop", when="after", nth=(2, 3)))
    second = scene.do("run", "job.toml", "--yes", "--json")
    assert unknown(second.run_dir) == unknown(first.run_dir)
    refused = scene.do("resolve", "latest", "--from", "found.csv", *WORD)
    assert refused.code == 2
    assert f"one of run {first.json['run_id']}" in refused.err
    assert len(unknown(second.run_dir)) == 10
    assert scene.do("resolve", first.json["run_id"], "--from", "found.csv", *WORD, "--json").counts["failed"] == 10


@pytest.mark.parametrize("together", [True, False])
def test_words_that_contradict_each_other(together, *, scene, first):
    """A row that is said to be issued and not issued is left as it is, be it said at once or one after the other."""
    (file, row), (other_file, other), *_ = unknown(first.run_dir)
    lines = [f"{other_file},{other},issued", f"{file},{row},issued", f"{file},{row},not-issued"]
    if not together:
        assert scene.do("resolve", "latest", "--row", f"{file}:{row}", "--as", "issued", *WORD).code == 6
        del lines[1]
    (scene.folder / "words.csv").write_text("\n".join(["file,row,as", *lines]))
    before = read_ledgers(first.run_dir)
    refused = scene.do("resolve", "latest", "--from", "words.csv", *WORD)
    assert (refused.code, f"row {file}:{row} is said to be not-issued" in refused.err) == (2, True), refused.err
    assert read_ledgers(first.run_dir) == before
    assert len(list(journal_rows(first.run_dir, "SELECT * FROM settlement"))) == (0 if together else 1)
    scene.judge()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("row,as\n6,perhaps\n", "line 2"),
        ("row\n6\n", "`as`"),
        ("row,as,by,evidence\n6,issued,Asha,x\nx,issued,Asha,x\n", "line 3"),
        ("as,name\nissued,n\n", "names no row"),
        ("row,as,by\n6,issued,Asha\n", "evidence"),
    ],
)
def test_a_file_that_cannot_be_understood(text, what, scene, first):
    """A file with a word that is none, or without a row, is refused with its line; nothing of it is settled."""
    (scene.folder / "words.csv").write_text(text)
    refused = scene.do("resolve", "latest", "--from", "words.csv")
    assert refused.code == 4
    assert what in refused.err
    assert not list(journal_rows(first.run_dir, "SELECT * FROM settlement"))


def test_a_row_number_in_two_files(scene, write_job, write_input):
    """Where two files have an unknown row of that number, the file has to be named."""
    for place, name in enumerate(("a.csv", "b.csv")):
        write_input(["mobile"], MOBILES[5 * place : 5 * place + 5], name=name)
    write_job(scene.service.base_url, input={"paths": ["*.csv"]})
    scene.service.order(Fault(kind="drop", rate=1.0))
    assert scene.do("run", "job.toml", "--yes", "--json").counts == {"rows": 10, "unknown": 10}
    refused = scene.do("resolve", "latest", "--row", "3", "--as", "not-issued", *WORD)
    assert (refused.code, "several input files" in refused.err) == (2, True)
    settled = scene.do("resolve", "latest", "--row", "b.csv:3", "--as", "not-issued", *WORD, "--json")
    assert settled.counts == {"rows": 10, "unknown": 9, "failed": 1}


def test_a_run_that_was_stopped(scene, first, write_input):
    """Settling does not end a stopped run: it can still be resumed, and keeps its exit code once nothing is unknown."""
    write_input(["mobile"], MOBILES[100:200], name="c.csv")
    scene.service.order(Fault(kind="drop", nth=(3,)), Fault(kind="status", status=429, retry_after=999, nth=(4,)))
    stopped = scene.do("run", "job.toml", "--input", "c.csv", "--yes", "--json")
    assert (stopped.code, stopped.json["state"]) == (6, "stopped")
    rows = [part for _, row in unknown(stopped.run_dir) for part in ("--row", row)]
    settled = scene.do("resolve", "latest", *rows, "--as", "not-issued", *WORD, "--json")
    assert (settled.code, settled.json["state"], settled.json["stop"]["reason"]) == (7, "stopped", "guard.throttled")
    resumed = scene.resume()
    assert (resumed.code, resumed.counts) == (5, {"rows": 100, "succeeded": 95, "failed": 5})
    scene.judge()


def test_a_crashed_run(scene, first, write_input):
    """The unknown rows of a crashed run can be settled before it is resumed, and its unsent rows stay unsent."""
    write_input(["mobile"], MOBILES[100:130], name="c.csv")
    scene.run("intent.noted:3", path="c.csv")
    folder = scene.run_dir()
    settled = scene.do("resolve", folder, "--row", "12", "--as", "not-issued", *WORD, "--json")
    assert (settled.code, settled.json["state"]) == (6, "interrupted"), settled.err
    assert settled.counts == {"rows": 30, "succeeded": 10, "failed": 1, "unknown": 4, "not_attempted": 15}
    resumed = scene.resume(folder)
    assert resumed.counts == {"rows": 30, "succeeded": 25, "failed": 1, "unknown": 4}
    scene.judge()
