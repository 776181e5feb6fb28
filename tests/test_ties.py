"""One customer, once, under whatever identifiers of a file; and nobody left out by it."""

import csv

import pytest
from conftest import read_ledger, read_ledgers
from scene import Scene

from bulkissue.outcomes import Ledger

HEADER = ["mobile", "email", "external_id", "name"]


@pytest.fixture
def scene(tmp_path, serve, write_input, write_job):
    """Runs over a wide file, against a stand-in that knows some identifiers as those of nobody."""

    def prepare(rows, **tables):
        write_input(HEADER, rows)
        service = serve(magic=True)
        write_job(service.base_url, **tables)
        return Scene(tmp_path, service)

    return prepare


def customer(number):
    return [f"91998600{number:04}", f"c{number}@example.org", f"M{number:06}", f"n{number}"]


def test_one_customer_under_several_identifiers(scene):
    """A customer who stands again with a damaged mobile, only the email or only the member number is sent to once."""
    people = [customer(number) for number in range(1000, 1040)]
    again = [["9.19E+11", *people[place][1:]] for place in range(5)]
    again += [["", people[place][1], "", "again"] for place in range(5, 10)]
    again += [["", "", people[place][2], "again"] for place in range(10, 15)]
    it = scene(people + again)
    ended = it.run()
    assert ended.code == 0, ended.err
    assert len(it.service.issued()) == 40
    duplicates = read_ledger(it.run_dir(), Ledger.DUPLICATE)
    assert [row["_bi_reason"] for row in duplicates] == ["dedupe.same_customer"] * 15
    assert "input.csv row 1 under another identifier" in duplicates[0]["_bi_message"]
    assert it.judge()


def test_a_family_email(scene):
    """Two mobiles that share an email are two customers; a row that has only that email is rejected."""
    one, two = customer(1000), customer(1001)
    two[1] = one[1]
    it = scene([one, two, ["", one[1], "", "x"]])
    ended = it.run()
    assert ended.code == 5, ended.err
    assert len(it.service.issued()) == 2
    [rejected] = read_ledger(it.run_dir(), Ledger.FAILURE)
    assert rejected["_bi_reason"] == "dedupe.shared_identifier"


def test_a_shared_mobile_goes_by_email(scene):
    """A row whose mobile belongs to two members goes by its own email."""
    one, two = customer(1000), customer(1001)
    two[0] = one[0]
    it = scene([one, two])
    ended = it.run()
    assert ended.code == 0, ended.err
    success = read_ledger(it.run_dir(), Ledger.SUCCESS)
    assert [row["_bi_identifier"] for row in success] == [one[1], two[1]]


def test_conflict_over_a_tie(scene):
    """Rows of one customer that disagree about the source are all rejected, under whatever identifiers they stand."""
    one = customer(1000)
    it = scene([])
    with (it.folder / "input.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [[*HEADER, "source"], [*one, "INSTORE"], ["", one[1], "", "x", "WEBSITE"], [*customer(1001), "INSTORE"]]
        )
    assert it.run().code == 5
    assert [row["_bi_reason"] for row in read_ledger(it.run_dir(), Ledger.FAILURE)] == ["dedupe.conflict"] * 2


def test_nobody_is_left_out(scene):
    """Where the row that was sent is refused, its duplicates by another identifier may be sent, and go first then."""
    unknown = customer(1000)
    unknown[0] = "919986008015"
    it = scene([unknown, ["", unknown[1], "", "again"], ["", unknown[1], "", "and again"], customer(1001)])
    ended = it.run()
    assert ended.code == 5, ended.err
    outcomes = {row: found["_bi_reason"] for (_, row), found in read_ledgers(it.run_dir()).items()}
    assert outcomes == {1: "api.8015", 2: "dedupe.first_failed", 3: "dedupe.first_failed", 4: ""} | {4: outcomes[4]}
    assert it.do("verify", "latest").code in {0, 5}
    again = it.do("retry", "latest", "--yes", "--json")
    outcomes = {row: found["_bi_outcome"] for (_, row), found in read_ledgers(it.run_dir()).items()}
    assert outcomes == {1: "duplicate", 2: "succeeded", 3: "duplicate"}, again.err
    assert len(it.service.issued()) == 2


def test_the_next_day(scene, write_input):
    """Who was issued yesterday under one identifier is not sent to today under another that stood beside it."""
    people = [customer(number) for number in range(1000, 1030)]
    it = scene(people)
    assert it.run().code == 0
    single = [people[place] for place in range(10)]
    write_input(["mobile", "email", "external_id", "name"], [["", one[1], "", "x"] for one in single], "emails.csv")
    write_input(["external_id"], [[one[2]] for one in people[10:20]], "members.csv")
    write_input(["mobile"], [[one[0]] for one in people[20:]], "mobiles.csv")
    for name in ("emails.csv", "members.csv", "mobiles.csv"):
        ended = it.run(path=name)
        assert ended.code == 0, ended.err
        duplicates = read_ledger(it.run_dir(), Ledger.DUPLICATE)
        assert [row["_bi_outcome"] for row in duplicates] == ["already_issued"] * 10
    assert len(it.service.issued()) == 30
    found = it.do("history", "job.toml", "--identifier", people[0][1], "--json")
    assert people[0][0] in found.out or '"succeeded"' in found.out


def test_a_tie_learnt_later(scene, write_input):
    """Who was issued by mobile alone is found when a later file says which member has that mobile."""
    people = [customer(number) for number in range(1000, 1010)]
    it = scene([[one[0], "", "", "x"] for one in people], identifiers={"prefer": ["external_id", "mobile", "email"]})
    assert it.run().code == 0
    write_input(HEADER, people, "later.csv")
    assert it.run(path="later.csv").code == 0
    assert {row["_bi_outcome"] for row in read_ledger(it.run_dir(), Ledger.DUPLICATE)} == {"already_issued"}
    assert len(it.service.issued()) == 10


def test_shared_by_input_and_history_together(scene, write_input):
    """An email that stood beside one mobile yesterday and stands beside another today names nobody."""
    one, two = customer(1000), customer(1001)
    it = scene([[*one[:2], "", "x"]])
    assert it.run().code == 0
    write_input(HEADER, [[two[0], one[1], "", "x"], ["", one[1], "", "y"]], "later.csv")
    assert it.run(path="later.csv").code == 5
    [rejected] = read_ledger(it.run_dir(), Ledger.FAILURE)
    assert rejected["_bi_reason"] == "dedupe.shared_identifier"
    assert [row["_bi_identifier"] for row in read_ledger(it.run_dir(), Ledger.SUCCESS)] == [two[0]]
