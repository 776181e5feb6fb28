"""Diff: how the rows of two runs differ, by customer."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scene import MOBILES, Scene

from bulkissue.sandbox import Fault, Running


@pytest.fixture
def scene(tmp_path: Path, service: Running, write_job: Callable[..., Path]) -> Scene:
    write_job(
        service.base_url,
        limits={"batch_size": 5, "concurrency": 1, "max_attempts": 2},
        reconcile={"settle_after_seconds": 0},
    )
    return Scene(tmp_path, service)


def differ(scene: Scene, *arguments: object, code: int = 0) -> dict[str, Any]:
    ended = scene.do("diff", *arguments, "--json")
    assert ended.code == code, ended.err
    assert not [known for (known,) in MOBILES if known in ended.out + ended.err]
    return ended.json


def changes(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(one[name] for name in ("first", "second", "customers")) for one in found["changes"]]


def test_a_run_and_its_retry(scene, write_input):
    """Who failed and then succeeded, who was not there again, and who differs in nothing, are counted apart."""
    write_input(["mobile"], [*MOBILES[:15], MOBILES[0], ("12",)])
    scene.service.order(Fault(kind="drop", when="before", nth=(2,), route="write"))
    first = scene.run().run_dir
    assert scene.do("reconcile", "latest", "--json").counts["failed"] == 5
    second = scene.do("retry", "latest", "--yes", "--json").run_dir
    found = differ(scene, first, second, "--out", "diff.csv")
    issued, failed = ["succeeded", "answer.proof"], ["failed", "reconcile.not_issued"]
    assert changes(found) == [(issued, None, 10), (failed, issued, 5)]
    assert (found["same"], found["differing"]) == (0, 15)
    assert (found["repeats"], found["nameless"]) == ([1, 0], [1, 1])
    assert found["runs"] == [first.name, second.name]
    path = scene.folder / "diff.csv"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["identifier"] for line in lines} == {mobile for (mobile,) in MOBILES[:15]}
    again = [line for line in lines if line["outcome_2"]]
    assert [line["identifier"] for line in again] == [mobile for (mobile,) in MOBILES[5:10]]
    assert {(line["outcome_1"], line["outcome_2"]) for line in again} == {("failed", "succeeded")}
    assert all(line["row_1"] == line["row_2"] and line["reference_2"] and not line["reference_1"] for line in again)
    # The other way round, the same.
    assert changes(differ(scene, second, first)) == [(None, issued, 10), (issued, failed, 5)]
    text = scene.do("diff", first, second).out
    assert "reconcile.not_issued" in text
    assert "10" in text


def test_the_same_file_twice(scene, write_input):
    """A second run over one file has all of its customers as already issued."""
    write_input(["mobile"], MOBILES[:10])
    first, second = scene.run().run_dir, scene.run().run_dir
    found = differ(scene, first.name, "latest")
    assert changes(found) == [(["succeeded", "answer.proof"], ["already_issued", "dedupe.issued"], 10)]
    assert found["runs"] == [first.name, second.name]
    itself = differ(scene, first, first)
    assert (itself["same"], itself["differing"], changes(itself)) == (10, 0, [])


def test_customers_are_compared_as_duplicates_are(scene, write_input):
    """An email in capitals is the same customer; a number that is a mobile here and an id there is not."""
    write_input(["type", "value"], [("email", "Asha@Example.com"), ("mobile", MOBILES[0][0])], "a.csv")
    write_input(["type", "value"], [("email", "asha@example.COM"), ("id", MOBILES[0][0])], "b.csv")
    first, second = scene.run(path="a.csv").run_dir, scene.run(path="b.csv").run_dir
    found = differ(scene, first, second)
    issued = ["succeeded", "answer.proof"]
    assert sorted(changes(found), key=str) == sorted(
        [(issued, ["already_issued", "dedupe.issued"], 1), (issued, None, 1), (None, issued, 1)], key=str
    )


def test_a_run_that_has_not_ended(scene, write_input):
    """A crashed run's rows are what is known of them now; a run whose plan was changed since is refused."""
    write_input(["mobile"], MOBILES[:5], "before.csv")
    write_input(["mobile"], MOBILES[:20])
    before = scene.run(path="before.csv").run_dir
    scene.run(crash_at="answer.noted")
    crashed = scene.run_dir()
    unsent, unanswered = ["not_attempted", "guard.unfinished"], ["unknown", "crash.no_answer"]
    found = differ(scene, before, crashed)
    known = {tuple(second) for first, second, _ in changes(found) if first is None}
    assert known <= {tuple(unsent), tuple(unanswered), ("succeeded", "answer.proof")}
    assert tuple(unsent) in known
    (crashed / "plan.parquet").write_bytes(b"")
    refused = scene.do("diff", before, crashed)
    assert (refused.code, refused.out) == (3, "")
    assert "plan.parquet" in refused.err
