"""
What every implementation of `state.protocols` promises, whichever it is.

Another one is one more line in `STORES`. Where a promise is about other processes, there are other processes.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bulkissue.errors import StateRefused, TargetLocked
from bulkissue.job.target import Target
from bulkissue.outcomes import Outcome, Results, RowResult
from bulkissue.state.entries import NEVER_SENT, ONLY_VOID, SENT, Answer, Event, Held, Intent, Settlement
from bulkissue.state.history import RUN_SCHEMA
from bulkissue.state.protocols import Store
from bulkissue.state.registered import Registered
from bulkissue.state.store import look_at_journal, store_at

#: How each is made, in an empty folder of the test's.
STORES = {"folder": lambda place: store_at(place / "state")}
ONE = Target("production", "earn", promotion_id="7")
BOTH = Target("production", "earn", promotion_id="7", promo_identifier="DIWALI")
OTHER = Target("production", "earn", promo_identifier="DIWALI")
RUN = {"run_id": "20261127T000000000Z-0001", "plan_sha256": "plan"}
PROOF = RowResult(Outcome.SUCCEEDED, "answer.proof", customer_id="5", reference="e1")


@pytest.fixture(params=STORES)
def made(request, tmp_path):
    """A way to the same store, as another process finds it; and the store."""
    return STORES[request.param]


@pytest.fixture
def store(made, tmp_path) -> Store:
    """A store that was made."""
    found: Store = made(tmp_path)
    found.open(tmp_path / "runs", init=False)
    return found


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "runs" / RUN["run_id"]
    folder.mkdir(parents=True)
    return folder


def registered(number: int, target: Target = ONE, **more: Any) -> Registered:
    name = f"20261127T000000000Z-{number:04}"
    return Registered(name, f"/runs/{name}", target.text(), "2026-11-27T00:00:00.000Z", number=number, **more)


def lines(store, *mobiles, run="r"):
    """What a run tells of these customers, as lines of history."""
    told = [
        {"identifier_type": "mobile", "compare_key": mobile, "outcome": "succeeded", "run": run} for mobile in mobiles
    ]
    return store.look_at(ONE).digests.digested(pl.LazyFrame(told, schema=RUN_SCHEMA))


def elsewhere(tmp_path, program, *arguments):
    """Another process, which prints a word once it has come so far, and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )


def test_it_is_made_once(made, tmp_path):
    """What is opened twice is one: it keeps its identity, and nothing makes it by the way."""
    found = made(tmp_path)
    assert found.mark() is None
    with pytest.raises(StateRefused, match="missing"):
        found.require()
    assert found.mark() is None
    found.open(tmp_path / "runs", init=False)
    identity = found.mark().identity
    made(tmp_path).open(tmp_path / "runs", init=False)
    made(tmp_path).require()
    assert made(tmp_path).mark().identity == identity
    assert len(identity) >= 16


def test_runs_are_numbered(store, made, tmp_path):
    """Each beginning has a number of its own, also after a kill in the middle of one."""
    with store.beginning() as number:
        assert number == 1
    program = """
import sys, time
from pathlib import Path
from test_store_contract import STORES
with STORES[sys.argv[2]](Path(sys.argv[1])).beginning() as number:
    print(number, flush=True)
    time.sleep(60)
"""
    kind = next(name for name, way in STORES.items() if way is made)
    other = elsewhere(tmp_path, program, kind)
    assert other.stdout.readline() == "2\n"
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with store.beginning() as number:
        assert number == 3
    assert store.begun() == 3
    store.count_up_to(9)
    store.count_up_to(4)
    with store.beginning() as number:
        assert number == 10


def test_a_target_is_one_process_s(store, made, tmp_path):
    """While one holds a target nobody else can, by whatever name; a kill lets it go."""
    program = """
import sys, time
from pathlib import Path
from test_store_contract import BOTH, STORES
with STORES[sys.argv[2]](Path(sys.argv[1])).locked(BOTH, "r"):
    print("held", flush=True)
    time.sleep(60)
"""
    kind = next(name for name, way in STORES.items() if way is made)
    other = elsewhere(tmp_path, program, kind)
    assert other.stdout.readline() == "held\n"
    for target in (ONE, OTHER, BOTH):
        with pytest.raises(TargetLocked), store.locked(target, "s"):
            pass
    assert store.is_sending(BOTH, "r")
    assert not store.is_sending(BOTH, "s")
    with store.locked(Target("production", "earn", promotion_id="8"), "s"):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with store.locked(ONE, "s"):
        assert not store.is_sending(BOTH, "r")


def test_the_register(store):
    """A run is entered under every name of its target, found by all of them, and its entry is replaced as a whole."""
    first, second = registered(1, BOTH), registered(2)
    with store.locked(BOTH, first.run_id) as memory:
        memory.register(first)
    with store.locked(ONE, second.run_id) as memory:
        memory.register(second)
        assert memory.runs() == [first, second]
        memory.register(registered(1, BOTH, state="settled", commits=7))
        assert memory.run(first.run_id).commits == 7
        assert memory.run("another") is None
    assert [run.run_id for run in store.look_at(OTHER).runs()][:1] == [first.run_id]
    assert store.known_runs() == {first.run_id, second.run_id}
    assert [run.run_id for run in store.runs()] == [first.run_id, second.run_id]
    assert store.run(first.run_id).state == "settled"
    assert store.run("another") is None
    assert store.latest_run().run_id == second.run_id


def test_history(store):
    """Who was issued is found by whoever asks next; a run's lines are replaced; other targets have nothing of it."""
    run, other = registered(1, BOTH), registered(2)
    with store.locked(BOTH, run.run_id) as memory:
        memory.register(run)
        fingerprint = memory.write_history(run.run_id, lines(store, "91998600", "91998601", run=run.run_id))
        settled = registered(1, BOTH, state="settled", history_file=fingerprint)
        memory.register(settled)
        assert memory.remembers(settled)
        assert not memory.remembers(registered(1, BOTH, history_file="another"))
        memory.write_history(other.run_id, lines(store, "91998602", run=other.run_id))
        assert memory.issued().lines.collect().height == 3
        assert memory.issued(without=run.run_id).lines.collect().height == 1
        assert memory.issued(only=run.run_id).lines.collect()["run"].unique().to_list() == [run.run_id]
        memory.write_history(other.run_id, lines(store, run=other.run_id))
        assert memory.issued().lines.collect().height == 2
    digest = store.look_at(ONE).digests.of_text("mobile", "91998600")
    for target in (ONE, OTHER, BOTH):
        assert digest in store.issued(target).lines.collect()["key"]
    assert store.issued(Target("production", "earn", promotion_id="8")).is_empty()
    assert store.every_occasion([ONE]).issued().lines.collect().height == 2
    aliased = Target("staging", "earn", promotion_id="7")
    assert list(store.elsewhere(aliased)) == ["production"]


def test_nobody_is_kept_by_name(store, tmp_path):
    """No identifier stands anywhere in what is kept of history."""
    with store.locked(ONE, "r") as memory:
        memory.register(registered(1))
        memory.write_history("r", lines(store, "919986000586"))
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"919986000586" in path.read_bytes()]


def test_words_of_lost_runs(store):
    """What persons said of a lost run is kept, each word, and who was named can be taken out again."""
    named = pl.DataFrame(
        [{"identifier_type": "mobile", "compare_key": "91998600", "run": "r", "outcome": "succeeded"}],
        schema=RUN_SCHEMA,
    )
    with store.locked(ONE, "r") as memory:
        memory.register(registered(1))
        memory.keep_word("r", {"by": "A", "at": "1"}, named)
        memory.keep_word("r", {"by": "B", "at": "2"}, named.clear())
        assert [word["by"] for word, _ in memory.words("r")] == ["A", "B"]
        assert memory.named_by_words("r")["compare_key"].to_list() == ["91998600"]
    assert store.erase_words({"91998600"}) == 1
    assert store.look_at(ONE).named_by_words("r")["compare_key"].to_list() == [None]


def test_a_journal(store, run_dir):
    """What was written is read back; the last settlement counts, and rows say how far they are."""
    journal = store.create_journal(run_dir, **RUN)
    assert journal.next_attempt == 1
    failed = RowResult(Outcome.FAILED, "api.8015")
    journal.write([Intent(1, 1, [0, 1], 10), Intent(2, 2, [2], 11), Event("run.began", 9, {"x": 1})])
    journal.write([Answer(1, 12, None, Results.of([PROOF, failed]), 200, "q"), Answer(2, 13, "http.429", None)])
    journal.write([Held(3, "dedupe.issued", "issued in run r")])
    said = [Settlement(1, outcome, reason, "m", "", "A", "e", 20) for outcome, reason in _SAID]
    journal.write(said)
    found = [(one.attempt, list(one.rows), one.void) for one in journal.attempts()]
    assert found == [(1, [0, 1], None), (2, [2], "http.429")]
    assert [one.attempt for one in journal.attempts((2, 2))] == [2]
    assert list(journal.marks(4)) == [SENT, SENT, ONLY_VOID, NEVER_SENT]
    assert journal.settlements() == said
    assert [one.row for one in journal.held()] == [3]
    assert (journal.requests_and_attempts(), journal.rows_sent(), journal.last_answer()) == ((2, 2), 3, 13)
    assert [event.name for event in journal.events()] == ["run.began"]
    journal.close()
    looked = look_at_journal(run_dir, **RUN)
    assert [list(one.results.outcome) for one in looked.attempts() if one.results] == [["succeeded", "failed"]]
    looked.leave()
    again = store.reopen_journal(run_dir, **RUN)
    assert again.next_attempt == 3
    again.close()


_SAID = [(Outcome.SUCCEEDED, "resolve.issued"), (Outcome.FAILED, "resolve.not_issued")]


def test_whose_journal_it_is(store, run_dir):
    """A journal is made once, and is its run's and its plan's."""
    store.create_journal(run_dir, **RUN).close()
    with pytest.raises(StateRefused):
        store.create_journal(run_dir, **RUN)
    for other in ({"run_id": "x"}, {"plan_sha256": "x"}):
        with pytest.raises(StateRefused):
            store.reopen_journal(run_dir, **{**RUN, **other})
    with pytest.raises(StateRefused):
        store.reopen_journal(run_dir / "missing", **RUN)


def test_all_or_none(store, run_dir):
    """Of entries that are written together, one that cannot be takes the others with it."""
    journal = store.create_journal(run_dir, **RUN)
    journal.write([Intent(1, 1, [0], 10)])
    with pytest.raises(StateRefused):
        journal.write([Intent(2, 1, [1], 11), Intent(1, 1, [0], 12)])
    assert [one.attempt for one in journal.attempts()] == [1]
    journal.close()


def test_what_is_written_outlives_a_kill(store, made, run_dir, tmp_path):
    """An intent that was acknowledged is there after SIGKILL, and whoever looks meanwhile sees it."""
    program = """
import sys, time
from pathlib import Path
from test_store_contract import RUN, STORES
from bulkissue.state.entries import Intent
journal = STORES[sys.argv[2]](Path(sys.argv[1])).create_journal(Path(sys.argv[3]), **RUN)
for number in range(1, 10_000):
    journal.write([Intent(number, number, [number], number)])
    print(number, flush=True)
"""
    kind = next(name for name, way in STORES.items() if way is made)
    other = elsewhere(tmp_path, program, kind, str(run_dir))
    told = [int(other.stdout.readline()) for _ in range(20)]
    looked = look_at_journal(run_dir, **RUN)
    assert len(list(looked.attempts())) >= 20
    looked.leave()
    other.send_signal(signal.SIGKILL)
    rest, _ = other.communicate()
    told += [int(line) for line in rest.splitlines()]
    journal = store.reopen_journal(run_dir, **RUN)
    assert journal.next_attempt - 1 >= told[-1]
    assert [one.attempt for one in journal.attempts()] == list(range(1, journal.next_attempt))
    journal.close()


def test_an_allowance_is_shared(store, made, tmp_path):
    """What one process has learnt and taken, the next one finds; other keys are others."""
    now = time.monotonic()
    with store.allowance("host", "key").held(now) as learnt:
        learnt.next = now + 5
    with made(tmp_path).allowance("host", "key").held(now) as learnt:
        assert learnt.next == now + 5
    with store.allowance("host", "another").held(now) as learnt:
        assert learnt.next != now + 5


def test_a_backup(store, tmp_path):
    """A copy has everything, and is refused where something is already."""
    with store.locked(ONE, "r") as memory:
        memory.register(registered(1))
        memory.write_history("r", lines(store, "91998600"))
    assert store.back_up(tmp_path / "copy") > 2
    copy = store_at(tmp_path / "copy")
    assert copy.mark() == store.mark()
    assert copy.issued(ONE).lines.collect().equals(store.issued(ONE).lines.collect())
    with pytest.raises(Exception, match="is there already"):
        store.back_up(tmp_path / "copy")
