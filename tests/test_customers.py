"""Customers are looked up before planning: the stand-in has people with several identifiers, and keeps the books."""

import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import read_ledgers
from scene import Scene, wait_until
from zygote import zygote

from bulkissue.errors import StateRefused
from bulkissue.exchange import Reply
from bulkissue.sandbox import Customer, Fault
from bulkissue.service import lookup
from bulkissue.service.page import Asked
from bulkissue.settle.customers import KEY, SCHEMA, Memory

PEOPLE = tuple(
    Customer(id=700_000 + n, mobile=f"9199860{n:05}", email=f"c{n}@example.com", external_id=f"00{n}")
    for n in range(40)
)
HEADER = ("type", "value", "source")


def rows_of(*people: Customer, kinds: tuple[str, ...] = ("mobile", "email")) -> list[tuple[str, str, str]]:
    """The people's identifiers, first all of one kind, then of the next."""
    return [(kind, str(getattr(one, kind)), "INSTORE") for kind in kinds for one in people]


@pytest.fixture
def scene(tmp_path, write_job, write_input, serve) -> Callable[..., Scene]:
    """Makes a scene whose job looks customers up; `limits` are the job's, other options the service's."""

    def make(
        rows: list[tuple[str, str, str]], action: str = "earn", limits: dict[str, Any] | None = None, **options: Any
    ) -> Scene:
        service = serve(**{"customers": PEOPLE} | options)
        write_job(service.base_url, action, limits=limits or {}, identifiers={"resolve_customers": True})
        write_input(HEADER, rows)
        return Scene(tmp_path, service)

    return make


def lookups_of(it: Scene) -> int:
    answers: dict[str, int] = it.service.stats()["requests"].get("lookup", {})
    return sum(answers.values())


def cache(it: Scene) -> Path:
    [path] = (it.folder / "state").glob("*/customers.parquet")
    return path


def reasons(run_dir: Path) -> Counter[str]:
    return Counter(row["_bi_reason"] for row in read_ledgers(run_dir).values())


@pytest.mark.parametrize("action", ["enrol", "earn", "issue", "coupon"])
def test_same_customer(action, scene):
    """Of several identifiers of a customer the first is sent, and the others name its row."""
    kinds = ("email", "id", "mobile") if action == "enrol" else ("email", "external_id", "id", "mobile")
    it = scene(rows_of(*PEOPLE[:5], kinds=kinds), action)
    ran = it.run()
    assert (ran.code, ran.counts) == (0, {"rows": 5 * len(kinds), "succeeded": 5, "duplicate": 5 * (len(kinds) - 1)})
    assert sorted(one["customer_id"] for one in it.service.issued()) == [one.id for one in PEOPLE[:5]]
    ledgers = read_ledgers(ran.run_dir)
    assert {row["_bi_reason"] for (_, n), row in ledgers.items() if n > 5} == {"dedupe.same_customer"}
    assert all(f" input.csv row {(n - 1) % 5 + 1} " in row["_bi_message"] for (_, n), row in ledgers.items() if n > 5)
    assert lookups_of(it) == 5 * (len(kinds) - 1)  # rows by id need none
    assert it.do("verify", "latest").code == 0


def test_off(scene):
    """Where the job does not ask for it nothing is looked up, and nothing is kept."""
    it = scene(rows_of(*PEOPLE[:3]))
    job = it.folder / "job.toml"
    job.write_text(job.read_text().replace("resolve_customers = true", "resolve_customers = false"))
    assert it.run().counts == {"rows": 6, "succeeded": 6}
    assert lookups_of(it) == 0
    assert not list((it.folder / "state").glob("*/customers.*"))


def test_each_identifier_once_and_remembered(scene, write_input):
    """A repeated identifier is asked for once, and the next run asks only for what is new."""
    it = scene([*rows_of(*PEOPLE[:3]), *rows_of(*PEOPLE[:3]), ("email", "C0@Example.com", "INSTORE")])
    ran = it.run()
    assert reasons(ran.run_dir) == {"answer.proof": 3, "dedupe.same_customer": 3, "dedupe.same_identifier": 7}
    assert lookups_of(it) == 6
    assert stat.S_IMODE(cache(it).stat().st_mode) == 0o600
    write_input(HEADER, rows_of(*PEOPLE[2:5]))
    assert it.run().counts == {"rows": 6, "succeeded": 2, "already_issued": 1, "duplicate": 3}
    assert lookups_of(it) == 10
    assert it.run().counts == {"rows": 6, "already_issued": 3, "duplicate": 3}
    assert lookups_of(it) == 10


@pytest.mark.parametrize("lost", [False, True], ids=["issued", "unknown"])
def test_history_by_another_identifier(lost, scene, write_input):
    """A customer who was, or may have been, issued by one identifier is not sent by another."""
    it = scene(rows_of(*PEOPLE[:2], kinds=("mobile",)), limits={"max_attempts": 1})
    if lost:
        it.service.order(Fault(kind="drop", when="after", rate=1, route="write"))
    assert it.run().code == (6 if lost else 0)
    it.service.clear()
    write_input(HEADER, rows_of(*PEOPLE[:3], kinds=("email", "id")))
    ran = it.run()
    assert ran.counts == {"rows": 6, "succeeded": 1, "already_issued": 2, "duplicate": 3}
    held = [row for row in read_ledgers(ran.run_dir).values() if row["_bi_outcome"] == "already_issued"]
    assert {row["_bi_reason"] for row in held} == {"dedupe.unknown" if lost else "dedupe.issued"}
    assert all("under another identifier in run 2" in row["_bi_message"] for row in held)
    assert len(it.service.issued()) == 3


def test_resume_by_another_identifier(scene, write_input):
    """A row whose customer another run issued meanwhile by another identifier is not sent by resume."""
    it = scene(rows_of(*PEOPLE[:15], kinds=("mobile",)), limits={"batch_size": 5, "concurrency": 1})
    it.run(crash_at="intent.noted:2")
    [stopped] = it.runs_dir.glob("*")
    write_input(HEADER, rows_of(PEOPLE[0], PEOPLE[7], PEOPLE[12], kinds=("email",)), name="other.csv")
    assert it.run(path="other.csv").counts == {"rows": 3, "already_issued": 2, "succeeded": 1}
    assert it.resume(stopped).counts == {"rows": 15, "succeeded": 9, "unknown": 5, "already_issued": 1}
    assert set(Counter(one["customer_id"] for one in it.service.issued()).values()) == {1}


def test_not_found(scene):
    """Whom the service does not know is sent as usual, for it to refuse, and is asked for again."""
    people = (*PEOPLE[:2], Customer(id=9, mobile="919986099999", email="gone@example.com", missing=True))
    it = scene(rows_of(*people), customers=people)
    ran = it.run()
    assert ran.counts == {"rows": 6, "succeeded": 2, "failed": 2, "duplicate": 2}
    assert ran.json["reasons"] == {"api.8015": 2}
    assert lookups_of(it) == 6
    it.run()
    assert lookups_of(it) == 8


def test_merged(scene):
    """A customer who was merged is the surviving one."""
    people = (Customer(id=7, mobile="919986000001"), Customer(id=8, email="old@example.com", merged_into=7))
    it = scene([("mobile", "919986000001", "INSTORE"), ("email", "old@example.com", "INSTORE")], customers=people)
    assert it.run().counts == {"rows": 2, "succeeded": 1, "duplicate": 1}


def test_conflict_only_within_an_identifier(scene):
    """One identifier with two sources is a conflict; one customer by two identifiers with two sources is not."""
    one, two = PEOPLE[:2]
    rows = [("mobile", one.mobile, "INSTORE"), ("mobile", one.mobile, "WEBSITE")]
    rows += [("mobile", two.mobile, "INSTORE"), ("email", two.email, "WEBSITE")]
    it = scene(rows)
    ran = it.run()
    assert reasons(ran.run_dir) == {"dedupe.conflict": 2, "answer.proof": 1, "dedupe.same_customer": 1}
    assert lookups_of(it) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"kind": "status", "status": 502}, "stopped: the service could not be reached"),
        ({"kind": "drop"}, "stopped: the service could not be reached"),
        ({"kind": "unauthorized"}, "stopped: the service refused the credentials"),
        ({"kind": "status", "status": 200, "body": '{"errors":[{"code":8003}]}'}, "row 6: 8003"),
        ({"kind": "status", "status": 404, "body": "<html>"}, "row 6: HTTP 404"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_failure_sends_nothing(fault, said, scene):
    """Where looking up fails nothing is sent, exit 3; what was found is kept, and the next start asks for the rest."""
    it = scene(rows_of(*PEOPLE[:10]), limits={"max_attempts": 1, "concurrency": 1})
    it.service.order(Fault(**fault, nth=tuple(range(6, 60)), route="lookup"))
    ended = it.run()
    assert ended.code == 3
    assert said in ended.json["error"]["message"]
    assert not any(one.mobile in ended.out + ended.err for one in PEOPLE)
    assert not it.service.issued()
    assert not list(it.runs_dir.glob("*"))
    assert pl.read_parquet(cache(it)).height == 5
    it.service.clear()
    before = lookups_of(it)
    assert it.run().counts == {"rows": 20, "succeeded": 10, "duplicate": 10}
    assert lookups_of(it) - before == 15


def test_one_question_without_an_answer(scene):
    """One customer who cannot be looked up is enough for nothing to be sent; all the others are kept."""
    it = scene(rows_of(*PEOPLE[:10]), limits={"max_attempts": 1, "concurrency": 1})
    it.service.order(Fault(kind="drop", nth=(4,), route="lookup"))
    ended = it.run()
    assert ended.code == 3
    assert "1 of 20 customers could not be looked up, the first at input.csv row 4" in ended.json["error"]["message"]
    assert not it.service.issued()
    assert pl.read_parquet(cache(it)).height == 19
    assert it.run().code == 0


def test_trouble_that_passes(scene):
    """What may pass is asked again."""
    it = scene(rows_of(*PEOPLE[:4]), limits={"concurrency": 1})
    it.service.order(
        Fault(kind="drop", nth=(1,), route="lookup"),
        Fault(kind="status", status=503, nth=(3,), route="lookup"),
        Fault(kind="status", status=429, retry_after=0, nth=(5,), route="lookup"),
        Fault(kind="token_expired", nth=(7,), route="lookup"),
    )
    assert it.run().counts == {"rows": 8, "succeeded": 4, "duplicate": 4}


def test_pace(scene):
    """Lookups and the sending after them keep the configured pace together."""
    it = scene(rows_of(*PEOPLE[:8]), limits={"requests_per_minute": 600, "concurrency": 8})
    began = time.monotonic()
    assert it.run().code == 0
    # A token, 16 lookup, a token and two batches at ten a second: the first two slots cost nothing.
    assert time.monotonic() - began > 1.6
    assert lookups_of(it) == 16


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number, scene):
    """A signal ends the looking up with exit 8 and nothing sent; what was found is kept."""
    it = scene(rows_of(*PEOPLE[:20]), limits={"concurrency": 1})
    it.service.order(Fault(kind="slow", seconds=0.1, rate=1, route="lookup"))
    started = it.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: lookups_of(it) >= 5)
    started.kill(number)
    ended = started.wait()
    assert ended.code == 8, ended.err
    assert not it.service.issued()
    assert not list(it.runs_dir.glob("*"))
    kept = pl.read_parquet(cache(it)).height
    assert 4 <= kept < 40
    it.service.clear()
    before = lookups_of(it)
    assert it.run().counts == {"rows": 40, "succeeded": 20, "duplicate": 20}
    assert lookups_of(it) - before - (40 - kept) in {0, 1}  # one may have been under way, and counted late


def test_dry_run(scene, write_input):
    """A dry run makes no request and needs no credentials; it goes by what is kept and counts what is not."""
    it = scene(rows_of(*PEOPLE[:3]))
    dry = ("run", "job.toml", "--dry-run")
    nobody = {"BULKISSUE_CLIENT_KEY": "", "BULKISSUE_CLIENT_SECRET": ""}
    first = zygote().start(*dry, "--json", cwd=it.folder, environ=nobody).wait().json
    assert (first["to_send"], first["not_looked_up"]) == (6, 6)
    assert it.service.stats()["requests_total"] == 0
    assert "6 customers are not looked up yet" in it.do(*dry).out
    it.run()
    write_input(HEADER, rows_of(*PEOPLE[:4]))
    before = it.service.stats()["requests_total"]
    second = it.do(*dry, "--json").json
    assert (second["to_send"], second["not_looked_up"]) == (2, 2)
    assert second["reasons"] == {"dedupe.issued": 3, "dedupe.same_customer": 3}
    assert it.service.stats()["requests_total"] == before
    write_input(HEADER, rows_of(*PEOPLE[:3]))
    assert "not looked up" not in it.do(*dry).out


def test_limit(scene):
    """Rows left out by --limit come after those proven the same; so are the duplicates of one that is left out."""
    it = scene(rows_of(*PEOPLE[:3]))
    ran = it.do("run", "job.toml", "--limit", "2", "--yes", "--json")
    assert ran.counts == {"rows": 6, "succeeded": 2, "not_attempted": 2, "duplicate": 2}


_KEEP = """
import sys
from pathlib import Path
from bulkissue.settle.customers import Memory
from bulkissue.service.page import Asked
for n in range(5):
    mobile = sys.argv[2] + str(n)
    Memory(Path(sys.argv[1]), "INSTORE").keep([(Asked("mobile", mobile, "INSTORE"), mobile, str(n + 1))])
"""


def test_keeping_together(tmp_path):
    """Several processes that keep what they found lose nothing of one another, and the newer answer stands."""
    # Not forks: polars has threads, and a fork of them may wait for ever.
    started = [subprocess.Popen([sys.executable, "-c", _KEEP, tmp_path / "place", str(part)]) for part in range(3)]
    assert [process.wait(60) for process in started] == [0] * 3
    memory = Memory(tmp_path / "place", "INSTORE")
    memory.keep([(Asked("mobile", "00", "INSTORE"), "00", "99")])
    found = memory.known().filter(pl.col("source") != "").collect()
    assert (found.height, found.select(KEY).is_duplicated().any()) == (15, False)
    assert found.filter(pl.col("compare_key") == "00")["customer_id"].to_list() == ["99"]


def test_no_source_is_the_default_one(tmp_path):
    """What was asked under the default source is known of rows without one, and nothing else is."""
    memory = Memory(tmp_path, "WEBSITE")
    memory.keep([(Asked("mobile", "1", source), "1", number) for source, number in (("WEBSITE", "5"), ("LINE", "6"))])
    known = memory.known().filter(pl.col("source") == "").collect()
    assert known["customer_id"].to_list() == ["5"]


@pytest.mark.parametrize("content", [b"", b"PAR1 torn"])
def test_a_torn_memory(content, tmp_path):
    """A memory that cannot be read is refused, with a word on what to do."""
    (tmp_path / "customers.parquet").write_bytes(content)
    with pytest.raises(StateRefused, match="cannot be read") as trouble:
        Memory(tmp_path, "INSTORE").known()
    assert "remove it" in str(trouble.value.hint)
    pl.DataFrame(schema={"x": pl.String}).write_parquet(tmp_path / "customers.parquet")
    with pytest.raises(StateRefused):
        Memory(tmp_path, "INSTORE").keep([(Asked("mobile", "1", "INSTORE"), "1", "5")])
    (tmp_path / "customers.parquet").unlink()
    assert Memory(tmp_path, "INSTORE").known().collect_schema() == SCHEMA


def test_the_question():
    """The identifier, its type as the service spells it, the source, and the account id where there is one."""
    asked = lookup.request(Asked("external_id", "007", "INSTORE"))
    assert (asked.method, asked.path) == ("GET", "/v2/customers/lookup")
    assert dict(asked.query) == {"source": "INSTORE", "identifierName": "externalId", "identifierValue": "007"}
    assert ("accountId", "a") in lookup.request(Asked("mobile", "1", "WEBSITE", "a")).query


@pytest.mark.parametrize(
    ("status", "body", "customer", "settled", "readable"),
    [
        (200, '{"entity":306,"warnings":[]}', "306", True, True),
        (200, '{"entity":"9223372036854775807"}', "9223372036854775807", True, True),
        (200, '{"entity":306,"warnings":[{"code":8069}]}', "306", True, True),
        (200, '{"entity":306,"errors":[{"code":8069}]}', "306", True, True),
        (200, '{"entity":306,"errors":[{"code":8015}]}', "", True, True),
        (200, '{"entity":0,"warnings":[{"code":8015}]}', "", True, True),
        (400, '{"errors":[{"code":"8065"}]}', "", True, True),
        (200, '{"errors":[{"code":8045}]}', "", True, True),
        (200, '{"errors":[{"code":8015},{"code":8003}]}', "", False, True),
        (200, '{"errors":[{"message":"no"}]}', "", False, True),
        (200, '{"entity":null,"warnings":[]}', "", False, False),
        (200, '{"entity":{"id":306}}', "", False, False),
        (200, '{"entity":true}', "", False, False),
        (200, "<html>", "", False, False),
        (200, "[306]", "", False, False),
        (404, "<html>", "", False, True),
        (500, '{"entity":306}', "", False, True),
    ],
)
def test_answers(status, body, customer, settled, readable):
    """A customer id is taken from a success only, and "nobody" only from a code that means it."""
    known = lookup.read(Reply(status, body.encode()))
    assert (known.customer_id, known.settled, known.readable) == (customer, settled, readable)


WIDE = ("mobile", "email")


@pytest.fixture
def wide(scene, write_input, write_job):
    """A job over a wide file; `PEOPLE` are as the service knows them."""

    def begin(rows):
        it = scene(rows_of(*PEOPLE[:1]))
        write_input(WIDE, rows, "wide.csv")
        job = (it.folder / "job.toml").read_text()
        (it.folder / "wide.toml").write_text(job.replace("input.csv", "wide.csv"))
        return it

    return begin


def test_the_service_says_that_two_are_two(wide):
    """Identifiers that the file ties together, and that are two customers to the service, are two, and that is said."""
    it = wide([(PEOPLE[0].mobile, PEOPLE[1].email), ("", PEOPLE[1].email), (PEOPLE[2].mobile, PEOPLE[2].email)])
    ended = it.do("run", "wide.toml", "--yes", "--json")
    assert ended.counts == {"rows": 3, "succeeded": 3}, ended.err
    assert sorted(one["customer_id"] for one in it.service.issued()) == [one.id for one in PEOPLE[:3]]
    assert "1 of 3 rows stand beside another customer's identifiers" in ended.json["warnings"][0]


def test_the_service_knows_whose_a_shared_identifier_is(wide):
    """A family's email that the service knows as one customer's is theirs."""
    rows = [(PEOPLE[0].mobile, PEOPLE[3].email), (PEOPLE[1].mobile, PEOPLE[3].email), ("", PEOPLE[3].email)]
    it = wide(rows)
    ended = it.do("run", "wide.toml", "--yes", "--json")
    assert ended.counts == {"rows": 3, "succeeded": 3}, ended.err
    issued = sorted(one["customer_id"] for one in it.service.issued())
    assert issued == [PEOPLE[0].id, PEOPLE[1].id, PEOPLE[3].id]


def test_the_service_s_word_goes_before_history_s_ties(wide, write_input):
    """A row that history ties to an issued customer, and that is another one by the service, is sent."""
    it = wide([(PEOPLE[0].mobile, PEOPLE[1].email)])
    assert it.do("run", "wide.toml", "--yes", "--json").counts == {"rows": 1, "succeeded": 1}
    write_input(WIDE, [("", PEOPLE[1].email), ("", PEOPLE[0].email)], "wide.csv")
    ended = it.do("run", "wide.toml", "--yes", "--json")
    assert ended.counts == {"rows": 2, "succeeded": 1, "already_issued": 1}, ended.err
    assert sorted(one["customer_id"] for one in it.service.issued()) == [one.id for one in PEOPLE[:2]]
