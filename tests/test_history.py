"""The state folder: what was issued to whom by which run, who may run now, and what must never be forgotten."""

import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import read_ledger, read_ledgers
from scene import MOBILES, Scene, wait_until, without_answer

from bulkissue.sandbox import Fault, Promotion, Running

ID, IDENTIFIER = {"program_id": 469, "promotion_id": 69218}, {"program_id": 469, "promo_identifier": "DIWALI26"}
BOTH = {**ID, **IDENTIFIER}


@pytest.fixture
def scene(tmp_path: Path, service: Running) -> Scene:
    return Scene(tmp_path, service)


@pytest.fixture
def prepare(scene: Scene, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Callable[..., None]:
    """Writes a job over some mobiles, in batches of five on two lanes."""

    def write(rows: int = 20, **tables: Any) -> None:
        write_input(["mobile"], MOBILES[:rows])
        write_job(scene.service.base_url, limits={"batch_size": 5, "concurrency": 2}, **tables)

    return write


# A state folder that is missing


def test_a_missing_state_folder(scene, prepare):
    """Where runs exist and the state folder does not, the run is refused until the user says --init-state."""
    prepare()
    assert scene.run().code == 0
    shutil.rmtree(scene.folder / "state")
    refused = scene.run()
    assert (refused.code, refused.json["run_id"]) == (3, None)
    assert "--init-state" in refused.json["error"]["hint"]
    assert not (scene.folder / "state").exists(), "nor is it made by the refusal"
    for run_again in (["resume", "latest"], ["retry", "latest"]):
        assert scene.do(*run_again, "--yes", "--json").code in {0, 3}
    assert len(scene.service.issued()) == 20
    began = scene.do("run", "job.toml", "--yes", "--json", "--init-state", "--limit", "3")
    assert began.counts == {"rows": 20, "succeeded": 3, "not_attempted": 17}, "without a memory, as was said"
    assert scene.run().counts == {"rows": 20, "succeeded": 17, "already_issued": 3}, "and with one again"


def test_a_state_folder_of_a_newer_program(scene, prepare):
    """A state folder of a newer format is refused."""
    prepare()
    (scene.folder / "state").mkdir()
    (scene.folder / "state" / "state.json").write_text('{"format": 99}')
    assert scene.run().code == 3
    assert not scene.service.issued()


def test_a_state_folder_of_its_own_beside_other_runs(scene, prepare, write_job):
    """Runs that kept their state elsewhere keep a new state folder from being made until the user says --init-state."""
    prepare()
    assert scene.run().code == 0
    write_job(scene.service.base_url, output={"state_dir": "elsewhere"}, job={"occasion": "2"}, name="other.toml")
    refused = scene.run(job="other.toml")
    assert refused.code == 3
    assert str(scene.folder / "state") in refused.json["error"]["message"]
    assert scene.do("run", "other.toml", "--yes", "--json", "--init-state").code == 0
    assert scene.run(job="other.toml").counts == {"rows": 20, "already_issued": 20}


# A crashed run whose journal is gone


@pytest.fixture
def lost(scene: Scene, prepare: Callable[..., None]) -> str:
    """A run that crashed in the middle, and its folder deleted; its id."""
    prepare()
    scene.run("answer.noted:2")
    folder = scene.run_dir()
    shutil.rmtree(folder)
    return folder.name


def refusal(scene: Scene, run_id: str) -> str:
    refused = scene.run()
    assert (refused.code, refused.json["run_id"]) == (3, None)
    assert run_id in refused.json["error"]["message"]
    assert f"bulkissue resolve {run_id} --job" in refused.json["error"]["hint"]
    message: str = refused.json["error"]["message"]
    return message


def test_a_lost_run_stops_its_target_and_no_other(scene, lost, write_job):
    """The register remembers a run whose folder is gone: its target stops, with or without the state's help."""
    issued = len(scene.service.issued())
    assert issued
    refusal(scene, lost)
    refusal(scene, lost)
    assert len(scene.service.issued()) == issued
    assert scene.do("run", "job.toml", "--yes", "--json", "--occasion", "another").code == 0
    write_job(scene.service.base_url, "enrol", name="enrol.toml")
    assert scene.run(job="enrol.toml").code == 0


def test_a_lost_run_issued_to_nobody(scene, lost):
    """A person's word that it issued to nobody frees the target; the word is kept."""
    word = ["--as", "not-issued", "--by", "Asha", "--evidence", "ticket 4711"]
    said = scene.do("resolve", lost, "--job", "job.toml", *word, "--json")
    assert (said.code, said.json["customers"]) == (0, 0), said.err
    kept = [json.loads(path.read_text()) for path in (scene.folder / "state").glob(f"**/words/{lost}-*.json")]
    assert [(one["as"], one["by"], one["evidence"]) for one in kept] == [("not-issued", "Asha", "ticket 4711")]
    assert scene.run().counts == {"rows": 20, "succeeded": 20}


def test_a_lost_run_issued_to_some(scene, lost, write_input):
    """Customers who were issued by the lost run, as a person says, are never sent again; the others are."""
    issued = sorted(one["identifier"] for one in scene.service.issued())
    write_input(["Mobile No."], [(f"+{mobile}",) for mobile in issued], name="report.csv")
    word = ["--as", "issued", "--issued-to", "report.csv", "--by", "Asha", "--evidence", "the service's own report"]
    said = scene.do("resolve", lost, "--job", "job.toml", *word, "--json")
    assert (said.code, said.json["customers"]) == (0, len(issued)), said.err
    ended = scene.run()
    assert ended.counts == {"rows": 20, "succeeded": 20 - len(issued), "already_issued": len(issued)}
    messages = {row["_bi_message"] for row in read_ledger(ended.run_dir, "duplicate")}
    assert messages == {f"issued in run {lost}"}
    assert len(scene.service.issued()) == 20
    assert not scene.service.stats()["double_issues"]
    asked = scene.do("history", "job.toml", "--identifier", issued[0], "--json").json["issued"]
    assert [line["run"] for line in asked] == [lost]


def test_a_later_word_stands_beside_the_earlier(scene, lost):
    """Another word about a lost run replaces what history holds, and the first stays on record."""
    for word in (["not-issued"], ["issued", "--issued-to", "input.csv"]):
        said = scene.do("resolve", lost, "--job", "job.toml", "--as", *word, "--by", "Asha", "--evidence", "a report")
        assert said.code == 0, said.err
    assert len(list((scene.folder / "state").glob(f"**/words/{lost}-*.json"))) == 2
    assert scene.run().counts == {"rows": 20, "already_issued": 20}


def test_who_was_said_to_be_issued_stays_so(scene, lost, write_input):
    """A later word about a lost run may name more customers, and never fewer."""
    said = ("--by", "Asha", "--evidence", "a report")
    everybody = sorted(one["identifier"] for one in scene.service.issued())
    for place, some in enumerate((everybody[:2], everybody[1:])):
        write_input(["mobile"], [(mobile,) for mobile in some], name=f"{place}.csv")
        word = scene.do(
            "resolve", lost, "--job", "job.toml", "--as", "issued", "--issued-to", f"{place}.csv", *said, "--json"
        )
        assert (word.code, word.json["customers"]) == (0, 2 if not place else len(everybody)), word.err
    refused = scene.do("resolve", lost, "--job", "job.toml", "--as", "not-issued", *said)
    assert (refused.code, f"issued to {len(everybody)} customers" in refused.err) == (2, True), refused.err
    assert scene.run().counts == {
        "rows": 20, "succeeded": 20 - len(everybody), "already_issued": len(everybody),
    }  # fmt: skip
    assert not scene.service.stats()["double_issues"]


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--as", "issued", "--by", "Asha", "--evidence", "x"], 2, "--issued-to"),
        (["--as", "not-issued", "--issued-to", "input.csv", "--by", "Asha", "--evidence", "x"], 2, "--issued-to"),
        (["--as", "not-issued", "--by", "Asha"], 2, "--evidence"),
        (["--as", "issued", "--issued-to", "nowhere.csv", "--by", "Asha", "--evidence", "x"], 4, "nowhere.csv"),
    ],
)
def test_half_a_word(arguments, code, what, scene, lost):
    """What is not said in full is refused, and nothing is settled."""
    refused = scene.do("resolve", lost, "--job", "job.toml", *arguments)
    assert refused.code == code
    assert what in refused.err
    refusal(scene, lost)


def test_no_word_where_the_journal_can_speak(scene, prepare):
    """A run whose journal is there is resumed, not talked about; nor is one that has ended, or that nobody knows."""
    prepare()
    scene.run("answer.noted:2")
    folder = scene.run_dir()
    word = ["--job", "job.toml", "--as", "not-issued", "--by", "Asha", "--evidence", "ticket 4711"]
    refused = scene.do("resolve", folder.name, *word)
    assert (refused.code, "bulkissue resume" in refused.err) == (2, True)
    assert scene.resume().code in {0, 6}
    assert scene.do("resolve", folder.name, *word).code == 2
    assert scene.do("resolve", "20260101T000000000Z-0000", *word).code == 2


def test_a_lost_run_is_found_again(scene, lost_and_kept):
    """Where the folder comes back after the word, the run is resumed, and its journal counts."""
    folder, away = lost_and_kept
    word = ["--as", "not-issued", "--by", "Asha", "--evidence", "a guess"]
    assert scene.do("resolve", folder.name, "--job", "job.toml", *word).code == 0
    away.rename(folder)
    unknown = without_answer(folder)
    assert scene.resume(folder).counts.get("unknown", 0) == unknown
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    scene.judge()


@pytest.fixture
def lost_and_kept(scene: Scene, prepare: Callable[..., None]) -> tuple[Path, Path]:
    """A crashed run's folder, and where it lies now."""
    prepare()
    scene.run("answer.noted:2")
    folder = scene.run_dir()
    away = scene.folder / "away"
    folder.rename(away)
    return folder, away


@pytest.mark.parametrize(
    "name", ["run.json", "journal.db", "plan.parquet", "input.parquet", "job.toml", "journal.db-wal"]
)
def test_a_crashed_run_that_cannot_be_read(name, scene, prepare):
    """Whatever is missing in a crashed run's folder stops the target: never is it taken for a run that sent nothing."""
    prepare()
    scene.run("answer.noted:2")
    folder = scene.run_dir()
    (folder / name).unlink()
    assert "sent nothing" not in refusal(scene, folder.name)
    said = scene.do(
        "resolve", folder.name, "--job", "job.toml", "--as", "issued", "--issued-to", "input.csv",
        "--by", "Asha", "--evidence", "to be safe",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert scene.run().counts == {"rows": 20, "already_issued": 20}


@pytest.mark.parametrize("name", ["plan.parquet", "input.parquet", "journal.db"])
def test_a_crashed_run_that_somebody_changed(name, scene, prepare):
    """A crashed run whose plan, input or journal is another one stops the target."""
    prepare()
    assert scene.do("run", "job.toml", "--yes", "--json", "--occasion", "other", "--limit", "7").code == 0
    other = scene.run_dir()
    scene.run("answer.noted:2")
    folder = scene.run_dir()
    if name == "input.parquet":
        (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    else:
        shutil.copy(other / name, folder / name)
    refusal(scene, folder.name)


# One promotion under two names


@pytest.mark.parametrize("first", ["id", "identifier", "both"])
def test_a_promotion_with_two_names(first, serve, tmp_path, write_input, write_job):
    """Jobs that name a promotion by id, by identifier or by both share one history once a job has named both."""
    service = serve(promotions=(Promotion(id=69218, identifier="DIWALI26"),))
    scene = Scene(tmp_path, service)
    jobs = {"id": ID, "identifier": IDENTIFIER, "both": BOTH}
    for name, target in jobs.items():
        write_job(service.base_url, target=target, name=f"{name}.toml")
    order = [first, *(name for name in ("both", "id", "identifier") if name != first)]
    for number, name in enumerate(order):
        write_input(["mobile"], MOBILES[: 10 * (number + 1)])
        ended = scene.run(job=f"{name}.toml")
        assert ended.counts.get("already_issued", 0) == 10 * number, (name, ended.err)
    assert len(service.issued()) == 30
    assert not service.stats()["double_issues"]
    for name in order:
        assert scene.run(job=f"{name}.toml").counts == {"rows": 30, "already_issued": 30}


def test_issue_and_earn_are_one_target(scene, prepare, write_job):
    """What earn has given, issue does not give again; enrol is another target."""
    prepare()
    assert scene.run().counts["succeeded"] == 20
    for action, counted in (("issue", "already_issued"), ("enrol", "succeeded")):
        write_job(scene.service.base_url, action, name=f"{action}.toml")
        assert scene.run(job=f"{action}.toml").counts == {"rows": 20, counted: 20}


def test_an_occasion(scene, prepare):
    """An occasion issues the same once more, and has a memory of its own."""
    prepare()
    for occasion, counted in (("2026-11", "succeeded"), ("2026-11", "already_issued"), ("2026-12", "succeeded")):
        ended = scene.do("run", "job.toml", "--yes", "--json", "--occasion", occasion)
        assert ended.counts == {"rows": 20, counted: 20}
    assert scene.run().counts == {"rows": 20, "succeeded": 20}


def test_other_ways_to_write_a_customer(scene, prepare, write_input):
    """History knows a customer however the next file writes the number or the email."""
    prepare(3)
    write_input(["email"], [("Asha@Example.com",), ("ravi@example.com",)])
    assert scene.run().counts == {"rows": 2, "succeeded": 2}
    write_input(["email"], [("asha@example.COM",), (" ravi@example.com ",), ("new@example.com",)])
    assert scene.run().counts == {"rows": 3, "succeeded": 1, "already_issued": 2}


# Locks


def test_two_runs_of_one_target(serve, tmp_path, write_job, write_input):
    """The second run of a target is turned away with exit 75, and is told who is at work, where and since when."""
    service = serve(latency_seconds=0.2)
    scene = Scene(tmp_path, service)
    write_input(["mobile"], MOBILES[:60])
    write_job(service.base_url, limits={"batch_size": 5, "concurrency": 1})
    first = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 1)
    run_id = scene.run_dir().name
    second = scene.run()
    assert (second.code, second.json["run_id"]) == (75, None)
    for said in (run_id, socket.gethostname(), "since 20", str(first.pid)):
        assert said in second.json["error"]["message"]
    assert len(list(scene.runs_dir.glob("*"))) == 1, "it leaves nothing behind"
    for command in (
        ["resume", run_id, "--yes"],
        ["resolve", run_id, "--row", "1", "--as", "issued", "--by", "a", "--evidence", "b"],
    ):
        assert scene.do(*command).code == 75
    other = scene.do("run", "job.toml", "--yes", "--json", "--occasion", "another", "--limit", "5")
    assert other.counts["succeeded"] == 5, "another target is not held up"
    assert first.alive
    assert first.wait().counts == {"rows": 60, "succeeded": 60}
    assert not service.stats()["double_issues"] - 5


def test_a_target_is_locked_under_all_its_names(serve, tmp_path, write_job, write_input):
    """A job that knows one name waits for a run that knows both."""
    service = serve(latency_seconds=0.2, promotions=(Promotion(id=69218, identifier="DIWALI26"),))
    scene = Scene(tmp_path, service)
    write_input(["mobile"], MOBILES[:60])
    limits = {"batch_size": 5, "concurrency": 1}
    write_job(service.base_url, target=BOTH, limits=limits)
    write_job(service.base_url, target=IDENTIFIER, limits=limits, name="identifier.toml")
    first = scene.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: scene.writes() >= 1)
    assert scene.run(job="identifier.toml").code == 75
    first.kill(signal.SIGTERM)
    assert first.wait().code == 8


def test_a_lock_does_not_outlive_its_process(scene, prepare):
    """After a kill nobody has to remove a lock."""
    prepare()
    scene.run("intent.noted")
    assert scene.run().code == 0


def test_ten_at_once(scene, prepare):
    """Of many runs started together some are turned away, and nobody is issued twice."""
    prepare(40)
    together = [scene.start("run", "job.toml", "--yes", "--json") for _ in range(10)]
    codes = [started.wait().code for started in together]
    assert set(codes) <= {0, 75}
    assert 0 in codes
    assert len(scene.service.issued()) == 40
    scene.judge()


# What became of a run while it was away


def test_a_killed_run_and_another_over_the_same_file(scene, prepare):
    """Run A is killed, run B takes the same file, resumed A sends nothing that B sent, and says so row by row."""
    prepare(40)
    scene.run("answer.noted:2")
    first = scene.run_dir()
    lost = without_answer(first)
    second = scene.do("run", "job.toml", "--yes", "--json", "--limit", "10")
    resumed = scene.resume(first)
    rows = read_ledgers(first).values()
    assert sum(row["_bi_outcome"] == "already_issued" for row in rows) == 10
    assert {row["_bi_message"] for row in rows if row["_bi_outcome"] == "already_issued"} == {
        f"issued in run {second.json['run_id']}"
    }
    assert "10 were issued" in resumed.err
    assert resumed.counts.get("unknown", 0) == lost
    judged = scene.judge()
    assert len(judged.issued | judged.in_doubt) == 40


def test_unknown_rows_are_held_until_they_are_settled(scene, prepare):
    """A later run leaves out whom an earlier one may have issued, names that run, and sends them once it is settled."""
    prepare()
    scene.service.order(Fault(kind="drop", nth=(2,)))
    first = scene.run()
    assert first.counts == {"rows": 20, "succeeded": 15, "unknown": 5}
    second = scene.run()
    assert second.counts == {"rows": 20, "already_issued": 20}
    assert any("5 of the already_issued rows are in doubt" in warning for warning in second.json["warnings"])
    assert "in doubt" in scene.do("run", "job.toml", "--yes").out
    unsure = [row for row in read_ledger(second.run_dir, "duplicate") if row["_bi_reason"] == "dedupe.unknown"]
    assert len(unsure) == 5
    assert all(first.json["run_id"] in row["_bi_message"] for row in unsure)
    rows = [argument for row in unsure for argument in ("--row", row["_bi_row"])]
    word = ["--as", "not-issued", "--by", "Asha", "--evidence", "ticket 4711"]
    assert scene.do("resolve", first.json["run_id"], *rows, *word).code == 5
    assert scene.run().counts == {"rows": 20, "succeeded": 5, "already_issued": 15}
    scene.judge()


def test_history_of_a_customer(scene, prepare):
    """`bulkissue history` tells what a customer got, when and in which run, however the number is written."""
    prepare(identifiers={"default_source": "INSTORE", "country_code": "91"})
    scene.service.order(Fault(kind="drop", nth=(2,), when="after"))
    ended = scene.run()
    reference = next(row["_bi_reference"] for row in read_ledger(ended.run_dir, "success") if row["_bi_row"] == "1")
    found = scene.do("history", "job.toml", "--identifier", "99860 00000", "--json").json["issued"]
    assert [(line["outcome"], line["reference"], line["source_row"]) for line in found] == [("succeeded", reference, 1)]
    assert found[0]["run"] == ended.json["run_id"]
    assert found[0]["answered_at"].startswith("20")
    unknown = read_ledger(ended.run_dir, "unknown")[0]["_bi_identifier"]
    found = scene.do("history", "job.toml", "--identifier", unknown, "--json").json["issued"]
    assert [(line["outcome"], line["reference"]) for line in found] == [("unknown", None)]
    assert "Nothing" in scene.do("history", "job.toml", "--identifier", "919999999999").out
    assert unknown not in scene.do("history", "job.toml", "--identifier", unknown).out
