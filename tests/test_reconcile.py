"""Unknown rows are settled by reading the stand-in back; its books are the judge of every settlement."""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import TARGETS, Ended, hold_against_books, read_ledger, read_ledgers
from zygote import zygote

from bulkissue.files import sha256
from bulkissue.outcomes import Outcome
from bulkissue.sandbox import Customer, Earlier, Fault, Promotion, Running, Series

EFFECTS = {"enrol": "enrol", "earn": "earn", "issue": "earn", "cart": "cart", "coupon": "coupon"}
IDS = [str(550_000_000 + n) for n in range(20)]
MOBILES = [f"9199860{n:05}" for n in range(20)]
AT_ONCE = {"settle_after_seconds": 0}


class Scene:
    """A service, a job, and commands on them."""

    def __init__(self, folder: Path, service: Running, job: Callable[..., Path], rows: Callable[..., Path]) -> None:
        self.folder = folder
        self.service = service
        self._job = job
        self._rows = rows

    def write(self, action: str = "earn", reconcile: dict[str, Any] = AT_ONCE, **limits: Any) -> None:
        self._job(
            self.service.base_url,
            action,
            limits={"batch_size": 5, "max_attempts": 2, "concurrency": 1} | limits,
            reconcile=reconcile,
        )

    def rows(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._rows(header, rows)

    def do(self, *arguments: object, **environ: str) -> Ended:
        return zygote().start(*arguments, cwd=self.folder, environ=environ).wait()

    def run(self, *arguments: str, **environ: str) -> Ended:
        return self.do("run", "job.toml", "--yes", "--json", *arguments, **environ)

    def reconcile(self, run: object = "latest", *arguments: str, **environ: str) -> Ended:
        """Reconcile a run; proves that nothing was issued by it, and that its books are whole."""
        before = self.service.issued()
        ended = self.do("reconcile", run, "--json", *arguments, **{"BULKISSUE_CONCURRENCY": "4"} | environ)
        assert self.service.issued() == before
        assert self.do("verify", run).code == 0
        return ended


@pytest.fixture
def scene(tmp_path, write_job, write_input, serve) -> Callable[..., Scene]:
    """Makes scenes; options are the service's."""
    return lambda **options: Scene(tmp_path, serve(**options), write_job, write_input)


def lost(*before: int, after: Sequence[int] = ()) -> tuple[Fault, ...]:
    """Answers lost after, and requests lost before, their effect; by number."""
    return (
        Fault(kind="drop", when="after", nth=tuple(after) or (10**6,), route="write"),
        Fault(kind="drop", when="before", nth=before or (10**6,), route="write"),
    )


def findings(ended: Ended) -> Counter[str]:
    return Counter(row["finding"] for row in ended.json["reconciled"]["rows"])


def whys(ended: Ended) -> set[str]:
    return {row["why"] for row in ended.json["reconciled"]["rows"]}


@pytest.mark.parametrize("action", EFFECTS)
def test_lost_answers(action, scene):
    """Rows whose answer was lost are settled as what truly happened, and retry takes those that were not issued."""
    it = scene()
    it.write(action)
    it.rows(["id"], [(one,) for one in IDS])
    it.service.order(*lost(3, after=(2, 4)))
    ran = it.run()
    assert ran.code == 6
    unknown = ran.counts["unknown"]
    ended = it.reconcile()
    not_issued = 5 if unknown == 15 else 1
    assert findings(ended) == {"issued": unknown - not_issued, "not_issued": not_issued}
    assert (ended.code, ended.counts) == (5, {"rows": 20, "succeeded": 20 - not_issued, "failed": not_issued})
    assert ended.json["reasons"] == {"reconcile.not_issued": not_issued}
    hold_against_books(ran.run_dir, it.service.issued(), effect=EFFECTS[action])
    settled = [row for row in read_ledger(ran.run_dir, "success") if row["_bi_reason"] == "reconcile.issued"]
    assert len(settled) == unknown - not_issued
    assert all("found exactly this issue" in row["_bi_message"] for row in settled)
    again = it.do("retry", "latest", "--yes", "--json")
    assert (again.code, again.counts) == (0, {"rows": not_issued, "succeeded": not_issued})
    assert len(it.service.issued()) == 20


@pytest.mark.parametrize("action", ["earn", "issue", "coupon"])
def test_every_identifier_type(action, scene):
    """Each type is read back by itself, with a control of its own."""
    it = scene()
    it.write(action)
    rows = [("id", one) for one in IDS[:6]] + [("mobile", one) for one in MOBILES[:6]]
    rows += [("email", f"C{n}+x@example.com") for n in range(6)] + [("external_id", f"000{n}") for n in range(6)]
    it.rows(["type", "value"], rows)
    # In order: the first of each type succeeds, over the bulk route (two batches of each) or one by one.
    bulk = ((4,), (2, 6, 8, 9)), ((2, 8, 14, 15, 21), (3, 9, 16, 22, 24))
    after, before = bulk[0 if action == "earn" else 1]
    it.service.order(*lost(*before, after=after))
    ran = it.run()
    ended = it.reconcile()
    assert ended.json["reconciled"]["left"] == 0, whys(ended)
    assert ended.json["reconciled"]["unknown"] == ran.counts["unknown"] > 4
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn" if action != "coupon" else "coupon")


def test_half_a_batch(scene):
    """Of a batch that was applied in part, each row is settled by itself."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(Fault(kind="partial", keep=3, nth=(3,), route="bulk"))
    ran = it.run()
    assert findings(it.reconcile()) == {"issued": 3, "not_issued": 2}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


def test_not_yet_visible(scene):
    """While issues are invisible nothing is settled as not issued; later the same command settles all."""
    it = scene(visible_after=2.5)
    it.write(reconcile={"settle_after_seconds": 0})
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()
    early = it.reconcile()
    assert (early.code, early.counts) == (6, {"rows": 20, "succeeded": 10, "unknown": 10})
    assert findings(early) == {"ambiguous": 10}
    messages = {row["_bi_message"].partition(" (")[0] for row in read_ledger(ran.run_dir, "unknown")}
    assert len(messages) == 1
    assert "none of 3 known successes is shown" in messages.pop()
    assert {row["_bi_reason"] for row in read_ledger(ran.run_dir, "unknown")} == {"net.protocol_error"}
    time.sleep(2.6)
    assert findings(it.reconcile()) == {"issued": 5, "not_issued": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


def test_the_settling_delay(scene):
    """Before the settling delay is over, what is there is settled, and what is not there is left."""
    it = scene()
    it.write(reconcile={})
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()
    ended = it.reconcile()
    assert findings(ended) == {"issued": 5, "too_early": 5}
    assert ended.counts == {"rows": 20, "succeeded": 15, "unknown": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")
    assert findings(it.reconcile("latest", BULKISSUE_SETTLE_AFTER_SECONDS="0")) == {"not_issued": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


@pytest.mark.parametrize(
    ("action", "seconds_ago", "expected"),
    [
        ("earn", 3600, {"issued": 5, "not_issued": 5}),
        ("enrol", 3600, {"issued": 5, "not_issued": 5}),
        ("cart", 3600, {"issued": 5, "not_issued": 5}),
        ("earn", 60, {"ambiguous": 10}),
        ("cart", 60, {"ambiguous": 10}),
        ("coupon", 3600, {"issued": 5, "not_issued": 5}),
        ("coupon", 60, {"ambiguous": 10}),
    ],
)
def test_older_issues(action, seconds_ago, expected, scene):
    """Customers who had the same before are settled where the older issue is clearly older, coupons too."""
    target: Any = TARGETS[action]
    earlier = tuple(
        Earlier(effect=EFFECTS[action], customer_id=int(one), seconds_ago=seconds_ago, **target)  # type: ignore[arg-type]
        for one in IDS
    )
    it = scene(earlier=earlier)
    it.write(action)
    it.rows(["id"], [(one,) for one in IDS])
    single = action == "coupon"
    it.service.order(*lost(*(range(11, 16) if single else (3,)), after=range(6, 11) if single else (2,)))
    ran = it.run()
    assert findings(it.reconcile()) == expected
    hold_against_books(ran.run_dir, it.service.issued(), effect=EFFECTS[action])


@pytest.mark.parametrize(("reissue", "issued"), [("another", 1), ("resend", 0), ("refuse", 0)])
def test_older_coupons_in_every_mode_of_a_series(reissue, issued, scene):
    """Only a coupon that a lost request made is issued: not the same again, not a refusal."""
    target: Any = TARGETS["coupon"]
    series = Series(id=target["series_id"], reissue=reissue)
    held = tuple(Earlier(effect="coupon", customer_id=int(one), series_id=series.id) for one in IDS[3:5])
    it = scene(series=(series,), earlier=held)
    it.write("coupon")
    it.rows(["id"], [(one,) for one in IDS[:6]])
    it.service.order(*lost(5, after=(4,)))
    ran = it.run()
    ended = it.reconcile()
    expected = Counter({"issued": issued, "not_issued": 2 - issued})
    assert Counter(findings(ended)) == +expected
    whys = [row["_bi_message"] for row in read_ledger(ran.run_dir, "failure")]
    assert sum("nothing new was issued" in why for why in whys) == 2 - issued
    hold_against_books(ran.run_dir, it.service.issued(), effect="coupon")


def test_several_attempts(scene):
    """Attempts that were proven not applied do not hide the one that was."""
    it = scene()
    it.write(max_attempts=4)
    it.rows(["mobile"], [(one,) for one in MOBILES])
    busy = '{"errors":[{"code":4001,"message":"m"}]}'
    it.service.order(Fault(kind="status", status=503, body=busy, nth=(2, 3, 6), route="bulk"))
    it.service.order(*lost(7, after=(4,)))
    ran = it.run()
    assert ran.counts["unknown"] == 10
    assert findings(it.reconcile()) == {"issued": 5, "not_issued": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


def test_several_runs(scene):
    """What a retry got stands as the retry's; each run's unknown rows are settled by their own issues."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(2, after=(4,)))
    first = it.run().run_dir
    assert findings(it.reconcile(first)) == {"issued": 5, "not_issued": 5}
    it.service.order(*lost(after=(1,)))
    second = it.do("retry", first, "--yes", "--json")
    assert second.counts == {"rows": 5, "unknown": 5}
    assert findings(it.reconcile(second.run_dir)) == {"issued": 5}
    assert it.reconcile(first).json["reconciled"]["requests"] == 0
    references = [row["_bi_reference"] for run in (first, second.run_dir) for row in read_ledger(run, "success")]
    assert sorted(references) == sorted(one["reference"] for one in it.service.issued())


def test_several_occasions(scene):
    """Issues that rows of another occasion hold are not taken for this one's."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    assert it.run().code == 0
    it.service.order(*lost(3, after=(2,)))
    november = it.run("--occasion", "november").run_dir
    assert findings(it.reconcile(november)) == {"issued": 5, "not_issued": 5}
    issued = [one["reference"] for one in it.service.issued()]
    runs = [run.parent for run in it.folder.glob("runs/*/run.json")]
    assert sorted(row["_bi_reference"] for run in runs for row in read_ledger(run, "success")) == sorted(issued)


def test_the_same_promotion_by_another_name(scene):
    """A job that names the promotion by its identifier knows what the other job's rows hold, by what reading tells."""
    it = scene(promotions=(Promotion(id=69218, identifier="DIWALI26"),))
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    job = it.folder / "job.toml"
    by_id = job.read_text()
    job.write_text(by_id.replace("promotion_id = 69218", 'promo_identifier = "DIWALI26"'))
    it.service.order(*lost(2))
    first = it.run()
    assert first.counts == {"rows": 20, "succeeded": 15, "unknown": 5}
    job.write_text(by_id)
    assert it.run().code == 0  # another name is another target to the runs themselves
    assert findings(it.reconcile(first.run_dir)) == {"not_issued": 5}


def people() -> tuple[Customer, ...]:
    return tuple(Customer(id=int(one), mobile=mobile) for one, mobile in zip(IDS, MOBILES, strict=True))


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (lost(3, after=(1,)), {"ambiguous": 10}),
        (lost(1, 3), {"not_issued": 10}),
        (lost(after=(1, 3)), {"ambiguous": 10}),
        (lost(after=(3,)), {"issued": 5}),
        (lost(3), {"not_issued": 5}),
    ],
)
def test_one_customer_under_two_identifiers(faults, expected, scene):
    """Of two open rows of one customer neither is settled unless nothing is there; a succeeded one is no rival."""
    it = scene(customers=people())
    it.write()
    rows = [("id", one) for one in IDS[:5] + IDS[10:15]] + [("mobile", one) for one in MOBILES[:5] + MOBILES[15:]]
    it.rows(["type", "value"], rows)
    it.service.order(*faults)
    ran = it.run()
    assert findings(it.reconcile()) == expected
    effects = {one["reference"]: one for one in it.service.issued()}
    for row in read_ledger(ran.run_dir, "success"):
        assert effects[row["_bi_reference"]]["identifier"] == row["_bi_identifier"]


def test_one_customer_in_two_runs(scene):
    """An open row of another run, of the same customer by another identifier, has to be settled first."""
    it = scene(customers=people())
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(4))
    by_mobile = it.run().run_dir
    it.rows(["id"], [(one,) for one in IDS[15:]])
    it.service.order(*lost(after=(1,)))
    by_id = it.run().run_dir
    ended = it.reconcile(by_id)
    assert findings(ended) == {"ambiguous": 5}
    assert all("which is the same customer" in why for why in whys(ended))
    assert findings(it.reconcile(by_mobile)) == {"ambiguous": 5}
    rows = [part for n in range(16, 21) for part in ("--row", str(n))]
    said = it.do("resolve", by_mobile, *rows, "--as", "not-issued", "--by", "A", "--evidence", "E", "--json")
    assert said.counts == {"rows": 20, "succeeded": 15, "failed": 5}
    assert findings(it.reconcile(by_id)) == {"issued": 5}
    hold_against_books(by_id, it.service.issued()[-5:], effect="earn")


def test_what_a_person_called_issued_may_be_the_issue(scene):
    """A row settled by a person's word holds an issue that nobody can name: it is a rival like an unknown one."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(after=(2,)))
    first = it.run().run_dir
    rows = [part for n in range(6, 11) for part in ("--row", str(n))]
    assert it.do("resolve", first, *rows, "--as", "issued", "--by", "A", "--evidence", "E").code == 0
    it.service.order(*lost(2))
    again = it.run("--occasion", "again").run_dir
    assert findings(it.reconcile(again)) == {"ambiguous": 5}


def test_a_crashed_run_of_another_occasion(scene):
    """What a run of another occasion had in flight when it died may be what is there."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(2))
    first = it.run().run_dir
    assert it.run("--occasion", "x", BULKISSUE_CRASH_AT="answer.noted:3").code == -signal.SIGKILL
    # Its second batch was answered: its rows hold their issues, by its journal alone.
    assert findings(it.reconcile(first)) == {"not_issued": 5}
    it.service.order(*lost(2))
    third = it.run("--occasion", "y").run_dir
    assert it.run("--occasion", "z", BULKISSUE_CRASH_AT="answer.received:2").code == -signal.SIGKILL
    # Its second batch was done, and its answer never noted.
    assert findings(it.reconcile(third)) == {"ambiguous": 5}


def test_a_lost_run_of_another_occasion(scene):
    """While nobody has said what a lost run did, what is there may be its; nothing is still nothing."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    first = it.run().run_dir
    assert it.run("--occasion", "x", BULKISSUE_CRASH_AT="intent.noted").code == -signal.SIGKILL
    [other] = [run for run in (it.folder / "runs").iterdir() if run != first]
    shutil.rmtree(other)
    ended = it.reconcile(first)
    assert findings(ended) == {"ambiguous": 5, "not_issued": 5}
    assert f"one issue could be it, or that of a row of run {other.name}, whose journal is gone" in whys(ended)
    said = ("--job", "job.toml", "--by", "A", "--evidence", "E", "--json")
    it.rows(["mobile"], [(MOBILES[6],)])
    assert it.do("resolve", other.name, "--as", "issued", "--issued-to", "input.csv", *said).code == 0
    assert findings(it.reconcile(first)) == {"ambiguous": 1, "issued": 4}


def test_ten_cart_promotions(scene):
    """A list as long as the service's own limit proves nothing."""
    others = tuple(
        Earlier(effect="cart", customer_id=int(one), promotion_id=f"other{n}", seconds_ago=9000)
        for one in IDS[5:10]
        for n in range(10)
    )
    it = scene(earlier=others, page_limit=10)
    it.write("cart")
    it.rows(["id"], [(one,) for one in IDS])
    it.service.order(*lost(2, 3))
    ran = it.run()
    ended = it.reconcile()
    assert findings(ended) == {"ambiguous": 5, "not_issued": 5}
    assert "it has 10 entries, and there may be more" in whys(ended)
    hold_against_books(ran.run_dir, it.service.issued(), effect="cart")


@pytest.mark.parametrize("action", ["earn", "coupon"])
def test_pages(action, scene):
    """All pages are read: an issue on a later one is found, and one that is nowhere is not there."""
    if action == "earn":
        others: list[dict[str, Any]] = [{"promotion_id": 1000 + n, "program_id": 469} for n in range(25)]
    else:
        others = [{"series_id": 1000 + n} for n in range(25)]
    earlier = tuple(
        Earlier(effect=action, customer_id=int(one), seconds_ago=-9000, **other) for one in IDS for other in others
    )
    it = scene(earlier=earlier, page_limit=10)
    it.write(action, batch_size=4)
    it.rows(["id"], [(one,) for one in IDS[:12]])
    it.service.order(*lost(*((2,) if action == "earn" else (5, 6)), after=(3,) if action == "earn" else (7, 8)))
    ran = it.run()
    assert set(findings(it.reconcile())) == {"issued", "not_issued"}
    hold_against_books(ran.run_dir, it.service.issued(), effect=action)


@pytest.mark.parametrize(
    "faults",
    [
        [
            Fault(kind="drop", nth=(2,), route="read"),
            Fault(kind="reset", when="after", nth=(5,), route="read"),
            Fault(kind="garbage", nth=(9,), route="read"),
            Fault(kind="cut", nth=(13,), route="read"),
            Fault(kind="wrong_json", body="json", nth=(17,), route="read"),
        ],
        [
            Fault(kind="wrong_json", body="html", nth=(1, 12), route="read"),
            Fault(kind="status", status=502, nth=(2, 10), route="read"),
            Fault(kind="status", status=429, retry_after=0, nth=(3, 14), route="read"),
            Fault(kind="status", status=503, body='{"errors":[{"code":4001}]}', nth=(5, 16), route="read"),
        ],
        [
            Fault(kind="token_expired", nth=(2, 9), route="read"),
            Fault(kind="unauthorized", nth=(4,), route="read"),
        ],
    ],
    ids=["broken answers", "statuses", "tokens"],
)
def test_trouble_while_reading(faults, scene):
    """Reading is tried again; whatever goes wrong meanwhile, nothing is settled wrongly."""
    it = scene()
    it.write(max_attempts=20)
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()
    it.service.clear()
    it.service.order(*faults)
    assert findings(it.reconcile()) == {"issued": 5, "not_issued": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")
    assert sum(it.service.stats()["faults"].values()) == 2 + sum(len(fault.nth) for fault in faults)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(kind="wrong_json", rate=1, route="read"), "guard.outage"),
        (Fault(kind="status", status=502, rate=1, route="read"), "guard.outage"),
        (Fault(kind="status", status=429, retry_after=400, rate=1, route="read"), "guard.throttled"),
        (Fault(kind="unauthorized", rate=1, route="read"), "guard.credentials"),
        (Fault(kind="status", status=403, body='{"errors":[{"code":403}]}', rate=1, route="read"), None),
        (Fault(kind="status", status=200, body='{"errors":[{"code":8003}]}', rate=1, route="read"), None),
    ],
    ids=lambda value: str(value.status if isinstance(value, Fault) else value),
)
def test_no_reading_at_all(fault, reason, scene):
    """Where reading fails for good nothing is settled, exit 6; when it works again all is."""
    it = scene()
    it.write(max_attempts=1)
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()
    it.service.clear()
    it.service.order(fault)
    ended = it.reconcile()
    assert (ended.code, ended.counts) == (6, {"rows": 20, "succeeded": 10, "unknown": 10})
    assert (ended.json["reconciled"]["stopped"] or {}).get("reason") == reason
    it.service.clear()
    assert findings(it.reconcile()) == {"issued": 5, "not_issued": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


def test_one_row_that_cannot_be_read(scene):
    """While it is not known who an open row is, no issue is given to another one; nothing is still nothing."""
    it = scene()
    it.write(max_attempts=1)
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    it.run()
    # Three requests for the control, three for the first unknown row, and then the second's.
    it.service.order(Fault(kind="drop", nth=(7,), route="read"))
    ended = it.reconcile("latest", BULKISSUE_CONCURRENCY="1")
    assert findings(ended) == {"ambiguous": 5, "not_issued": 5}
    assert sum("could not be read" in why for why in whys(ended)) == 2
    assert findings(it.reconcile()) == {"issued": 5}


def test_customers_that_do_not_exist(scene):
    """A row whose customer the service does not know stays unknown, and holds up nobody."""
    it = scene(magic=True)
    it.write()
    it.rows(["mobile"], [(one,) for one in (*MOBILES[:7], "919986008015", *MOBILES[7:])])
    it.service.order(*lost(after=(2,)))
    ran = it.run()
    ended = it.reconcile()
    assert findings(ended) == {"issued": 4, "ambiguous": 1}
    assert "the service answered 8015" in whys(ended)
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


@pytest.mark.parametrize("action", ["earn", "cart", "coupon"])
def test_doubtful_answers(action, scene):
    """Answers that are neither proof nor refusal are settled by what is there."""
    it = scene(magic=True)
    it.write(action)
    issued, not_issued = (8897, 8893, 8898), (8896, 8891, 8895)
    it.rows(["id"], [(one,) for one in (*IDS[:4], *(f"55501{ending}" for ending in issued + not_issued))])
    ran = it.run()
    assert ran.counts == {"rows": 10, "succeeded": 4, "unknown": 6}
    assert findings(it.reconcile()) == {"issued": 3, "not_issued": 3}
    hold_against_books(ran.run_dir, it.service.issued(), effect=action)


def test_no_control(scene):
    """Where no known success is shown by the same question, "nothing is there" settles nothing."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    it.run()
    it.service.reset()
    ended = it.reconcile()
    assert findings(ended) == {"ambiguous": 10}
    assert all("none of 3 known successes is shown" in why for why in whys(ended))


def test_no_success_at_all(scene):
    """A run without a success settles what is there, and nothing else; a success of an earlier run is a control."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES[:10]])
    it.service.order(*lost(2, after=(1,)))
    run = it.run().run_dir
    ended = it.reconcile(run)
    assert findings(ended) == {"issued": 5, "ambiguous": 5}
    it.rows(["mobile"], [(one,) for one in MOBILES[10:]])
    assert it.run().code == 0
    assert findings(it.reconcile(run)) == {"not_issued": 5}
    hold_against_books(run, it.service.issued(), effect="earn")


def test_dates_without_a_zone(scene):
    """An issue whose date cannot be compared settles nothing; no issue at all still does."""
    it = scene(iso_twins=False, offset_in_dates=False)
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()
    assert findings(it.reconcile()) == {"ambiguous": 5, "not_issued": 5}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


def test_dry_run(scene):
    """A dry run says what it would settle, and leaves the run folder and history as they were."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()

    def digests() -> dict[Path, str]:
        places = [*ran.run_dir.iterdir(), *(it.folder / "state").rglob("*")]
        no_content = {"lock", ".lock", "journal.db-shm", "journal.db-wal"}  # the WAL is empty
        kept = [path for path in places if path.name not in no_content and path.parent.name != "allowance"]
        return {path: sha256(path) for path in kept if path.is_file()}

    before = digests()
    ended = it.do("reconcile", "latest", "--dry-run", "--json")
    assert digests() == before
    assert (ended.code, ended.json["reconciled"]["dry_run"], findings(ended)) == (
        6,
        True,
        {"issued": 5, "not_issued": 5},
    )
    told = it.do("reconcile", "latest", "--dry-run")
    assert "5 would be settled as issued, 5 as not issued, 0 stay unknown" in told.out
    assert not any(mobile in told.out + told.err + ended.out + ended.err for mobile in MOBILES)


def test_nothing_to_settle(scene):
    """A run without unknown rows asks the service nothing, and keeps its exit code."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.run()
    before = it.service.stats()["requests_total"]
    ended = it.reconcile()
    assert (ended.code, it.service.stats()["requests_total"]) == (0, before)


def test_sample(scene):
    """A sample of settled rows is held against the service: the same rows each time, and all of them agree."""
    it = scene(magic=True)
    it.write()
    it.rows(["mobile"], [(one,) for one in (*MOBILES, "919986008015", "919986108890")])
    ran = it.run()
    assert ran.counts == {"rows": 22, "succeeded": 20, "failed": 2}
    ended = it.reconcile("latest", "--sample", "4", BULKISSUE_SETTLE_AFTER_SECONDS="0")
    assert (ended.code, ended.json["sample"]) == (5, {"agrees": 6, "disagrees": [], "unclear": []})
    told = it.do("reconcile", "latest", "--sample", "100")
    assert "agrees with 22 of 22 rows" in told.out


def test_a_sample_that_disagrees(scene):
    """A success that is not there, and an issue behind a failure, are exit 6 and named by file and row."""
    it = scene(magic=True)
    it.write()
    it.rows(["mobile"], [(one,) for one in (*MOBILES, "919986108890")])
    it.service.order(Fault(kind="status", status=400, body="empty", nth=(2,), route="bulk"))
    ran = it.run()
    assert ran.counts == {"rows": 21, "succeeded": 15, "failed": 6}
    body: dict[str, Any] = {"type": "CUSTOMER", "bulkAction": "EARN", "identifierName": "mobile"}
    body["promotionDetails"] = {"programId": 469, "promotionId": 69218}
    body["customers"] = [{"identifierValue": MOBILES[5], "source": "INSTORE"}]
    token = httpx.post(f"{it.service.base_url}/v3/oauth/token/generate", json={"key": "k", "secret": "s"}).json()
    headers = {"X-CAP-API-OAUTH-TOKEN": token["data"]["accessToken"]}
    httpx.post(f"{it.service.base_url}/v2/promotion/bulk/enrolAndEarn", json=body, headers=headers).raise_for_status()
    behind = it.reconcile("latest", "--sample", "30")
    assert behind.code == 6
    assert [(one["file"], one["row"], one["outcome"]) for one in behind.json["sample"]["disagrees"]] == [
        ("input.csv", 6, "failed")
    ]
    it.service.reset()
    gone = it.reconcile("latest", "--sample", "3", BULKISSUE_SETTLE_AFTER_SECONDS="0")
    assert gone.code == 6
    assert [(one["outcome"], one["why"]) for one in gone.json["sample"]["disagrees"]] == [
        ("succeeded", "its issue is not there")
    ] * 3
    assert len(gone.json["sample"]["unclear"]) == 3  # nothing is there, and nothing shows that it would be seen
    told = it.do("reconcile", "latest", "--sample", "3", BULKISSUE_SETTLE_AFTER_SECONDS="0")
    assert "input.csv row 1 " in told.out
    assert not any(mobile in told.out + told.err for mobile in MOBILES)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_and_run_again(number, scene):
    """A signal ends the reading; what was settled stays, and the next time settles the rest."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(2, 3, after=(4,)))
    ran = it.run()
    it.service.order(Fault(kind="slow", seconds=0.1, rate=1, route="read"))
    started = zygote().start("reconcile", "latest", "--json", cwd=it.folder)
    deadline = time.monotonic() + 20
    while it.service.stats()["requests"].get("promotion_data", {}).get("200", 0) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.kill(number)
    ended = started.wait()
    assert ended.code == 6, ended.err
    assert ended.json["reconciled"]["stopped"]["reason"] == "guard.signal"
    assert set(findings(ended)) == {"not_issued"}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")
    it.service.clear()
    rest = it.reconcile()
    assert findings(ended) + findings(rest) == {"issued": 5, "not_issued": 10}
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


def test_killed_and_run_again(scene):
    """A reconcile that is killed has settled what its journal says; the next one brings the ledgers up to it."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(2, after=(4,)))
    ran = it.run()
    it.do("reconcile", "latest", "--json", BULKISSUE_CRASH_AT="ledgers.written")
    assert it.do("retry", "latest", "--yes", "--json").counts in ({"rows": 5, "already_issued": 5}, {})
    ended = it.do("reconcile", ran.run_dir, "--json")
    assert (ended.code, ended.counts) == (5, {"rows": 20, "succeeded": 15, "failed": 5})
    hold_against_books(ran.run_dir, it.service.issued(), effect="earn")


@pytest.mark.parametrize(("crash_at", "finding"), [("intent.noted:3", "not_issued"), ("answer.received:3", "issued")])
def test_a_crashed_run(crash_at, finding, scene):
    """A run that died is settled without being resumed, and can be resumed after that."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    assert it.run(BULKISSUE_CRASH_AT=crash_at).code == -signal.SIGKILL
    ended = it.reconcile()
    assert findings(ended) == {finding: 5}
    assert ended.json["state"] == "interrupted"
    settled = {"not_issued": {"failed": 5, "succeeded": 10}, "issued": {"succeeded": 15}}[finding]
    assert (ended.code, ended.counts) == (8, {"rows": 20, "not_attempted": 5} | settled)
    hold_against_books(ended.run_dir, it.service.issued(), effect="earn")
    resumed = it.do("resume", "latest", "--yes", "--json")
    assert resumed.counts["succeeded"] == settled["succeeded"] + 5
    hold_against_books(ended.run_dir, it.service.issued(), effect="earn")


def test_a_run_that_is_sending(scene):
    """While a run sends it cannot be reconciled: exit 75."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(Fault(kind="slow", seconds=0.4, rate=1, route="write"))
    started = zygote().start("run", "job.toml", "--yes", "--json", cwd=it.folder)
    deadline = time.monotonic() + 20
    while not it.service.issued():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert it.do("reconcile", "latest", "--json").code == 75
    assert started.wait().code == 0


def test_another_service(scene):
    """A run is read back only where it was sent."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES[:10]])
    it.service.order(*lost(2))
    it.run()
    before = it.service.stats()["requests_total"]
    ended = it.do("reconcile", "latest", "--json", BULKISSUE_BASE_URL="http://127.0.0.1:9")
    assert (ended.code, it.service.stats()["requests_total"]) == (3, before)


def test_history_follows(scene):
    """A row proven not issued leaves history, one found to be issued stays in it with its reference."""
    it = scene()
    it.write()
    it.rows(["mobile"], [(one,) for one in MOBILES])
    it.service.order(*lost(3, after=(2,)))
    ran = it.run()
    it.reconcile()
    [gone] = [row for n, row in read_ledgers(ran.run_dir).items() if n[1] == 11]
    [kept] = [row for n, row in read_ledgers(ran.run_dir).items() if n[1] == 6]
    assert gone["_bi_outcome"] == Outcome.FAILED

    def told(row: dict[str, str]) -> list[dict[str, Any]]:
        ended = it.do("history", "job.toml", "--identifier", row["_bi_identifier"], "--json")
        issued: list[dict[str, Any]] = json.loads(ended.out)["issued"]
        return issued

    assert told(gone) == []
    assert [line["reference"] for line in told(kept)] == [kept["_bi_reference"]]
    again = it.run()
    assert again.counts == {"rows": 20, "already_issued": 15, "succeeded": 5}
