"""A rehearsal is the whole life of a run: what goes wrong in it is settled with the stand-in that kept its books."""

import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from scene import MOBILES, Scene, wait_until

from bulkissue.errors import SettingsRefused
from bulkissue.sandbox import kept as kept_books
from bulkissue.sandbox.books import Books, Known, Who
from bulkissue.sandbox.kept import Kept
from bulkissue.sandbox.options import Options

FAULTS = """
[[faults]]
kind = "drop"
route = "write"
when = "after"
nth = [2]

[[faults]]
kind = "status"
route = "write"
status = 400
nth = [3]
"""


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """Twenty customers in batches of five; the real service must never hear of them."""
    write_input(["mobile"], MOBILES[:20])
    write_job(service.base_url, limits={"batch_size": 5}, guards={"max_failed_ratio": 1.0})
    (tmp_path / "faults.toml").write_text(FAULTS)
    yield Scene(tmp_path, service)
    assert service.issued() == []
    assert not service.stats()["requests"]


def rehearse(scene, faults="faults.toml", **how):
    return scene.do("run", "job.toml", "--sandbox", "--sandbox-faults", faults, "--json", **how)


def books(scene):
    lines = [line for path in scene.folder.glob("state-sandbox/*/stand-in.jsonl") for line in path.read_text().split()]
    return [json.loads(line)["customer_id"] for line in lines]


def test_the_whole_life(scene):
    """Unknown rows are read back, failed ones retried, each customer has it once, and the books are proven."""
    first = rehearse(scene)
    assert (first.code, first.counts) == (6, {"rows": 20, "succeeded": 10, "failed": 5, "unknown": 5})
    run = scene.run_dir()
    # Whatever the environment says, a rehearsal stays with its stand-in.
    real = {"BULKISSUE_BASE_URL": scene.service.base_url, "BULKISSUE_ENVIRONMENT": "production"}
    settled = scene.do("reconcile", run.name, "--json", environ=real)
    assert settled.code == 5, settled.err
    retried = scene.do("retry", run.name, "--yes", "--json", environ=real)
    assert (retried.code, retried.counts) == (0, {"rows": 5, "succeeded": 5})
    assert scene.do("status", scene.run_dir().name, "--json").json["rehearsal"] is True
    assert len(books(scene)) == len(set(books(scene))) == 20
    assert {path.stat().st_mode & 0o077 for path in scene.folder.glob("state-sandbox/*/*.jsonl")} == {0}
    for folder in scene.runs_dir.iterdir():
        assert scene.do("verify", folder).code == 0


def test_by_hand(scene):
    """A person's word settles a rehearsal's row as it does a real one."""
    rehearse(scene)
    run = scene.run_dir().name
    rows = [part for row in range(6, 11) for part in ("--row", str(row))]
    said = scene.do("resolve", run, *rows, "--as", "issued", "--by", "me", "--evidence", "practice", "--json")
    assert (said.code, said.counts) == (5, {"rows": 20, "succeeded": 15, "failed": 5})


@pytest.mark.parametrize("place", ["answer.noted", "intent.noted"])
def test_resuming(scene, place):
    """A rehearsal that was killed goes on; its stand-in ended with it and is there again."""
    rehearse(scene, crash_at=place)
    assert scene.do("resume", scene.run_dir().name, "--yes", "--json").code in {5, 6}
    assert len(books(scene)) == len(set(books(scene)))


def test_a_bad_night(scene):
    """The scenario that comes with the program leaves something to do even of a small file; --settle reads it back."""
    scene.do("run", "job.toml", "--sandbox", "--sandbox-faults", "bad-night", "--settle", "--json")
    manifest = json.loads((scene.run_dir() / "run.json").read_text())
    assert {name: rows for name, rows in manifest["counts"].items() if rows} == {
        "rows": 20,
        "succeeded": 15,
        "failed": 5,
    }
    assert manifest["attempts"] > manifest["requests"]
    report = (scene.run_dir() / "success.csv").read_text()
    assert "reconcile." in report


def test_books_that_are_gone(scene):
    """Without them nobody goes on with the rehearsal; a purge takes them along."""
    rehearse(scene)
    run = scene.run_dir().name
    for path in scene.folder.glob("state-sandbox/*/stand-in.jsonl"):
        path.unlink()
    refused = scene.do("reconcile", run)
    assert (refused.code, "stand-in service knew is gone" in refused.err) == (2, True)
    rehearse(scene)
    scene.do("run", "job.toml", "--limit", "0", "--yes")  # a state folder of the job itself
    assert scene.do("purge", "job.toml", "--older-than", "0d").code == 0
    assert books(scene) == []


def test_faults_that_are_none(scene):
    """A scenario that does not exist, and faults without a stand-in."""
    nothing = rehearse(scene, "no-such-night")
    assert nothing.code == 3
    alone = scene.do("run", "job.toml", "--sandbox-faults", "bad-night")
    assert (alone.code, "goes with --sandbox" in alone.err) == (2, True)


def test_the_stand_in_ends_with_the_run(scene):
    """Nothing is left behind where the run is killed."""
    silence = '[[faults]]\nkind = "silence"\nroute = "write"\nseconds = 60\nrate = 1.0\n'
    (scene.folder / "faults.toml").write_text(silence)
    started = scene.start("run", "job.toml", "--sandbox", "--sandbox-faults", "faults.toml")
    wait_until(lambda: stand_ins(scene))
    wait_until(lambda: list(scene.runs_dir.glob("*/journal.db")))
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    wait_until(lambda: not stand_ins(scene))


def stand_ins(scene):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"bulkissue.sandbox" in words and str(scene.folder).encode() in words:
            found.append(path)
    return found


def test_kept_books(tmp_path):
    """The next books go on where the last ended; a line that a kill cut in two was never answered for."""
    path = tmp_path / "books.jsonl"
    kept = Kept(path)
    before = Books(Options(), 1e9, kept.effects, kept.write)
    offer = before.loyalty_offer("enrol", 1, before.promotion(0, "winter"))
    for customer in (1234567, 1234568):
        before.issue(offer, Known(Who("id", str(customer)), customer), 1e9, route="bulk", request_no=1)
    kept.close()
    path.write_bytes(path.read_bytes() + b'{"seq":3,"at"')
    kept = Kept(path)
    after = Books(Options(), 1e9 + 5, kept.effects, kept.write)
    assert after.effects() == before.effects()
    after.issue(offer, Known(Who("id", "1234567"), 1234567), 1e9 + 9, route="bulk", request_no=1)
    assert [effect.attempt_no for effect in after.effects()] == [1, 1, 2]
    assert after.double_issues() == 1
    kept.close()
    again = Kept(path)
    assert len(again.effects) == 3
    again.forget()
    again.close()
    assert path.read_bytes() == b""


def test_two_stand_ins(tmp_path, monkeypatch):
    """While one stand-in keeps its books the next one waits for it, and does not cut what it writes."""
    monkeypatch.setattr(kept_books, "_PATIENCE_SECONDS", 0.2)
    path = tmp_path / "books.jsonl"
    first = Kept(path)
    with pytest.raises(SettingsRefused, match="another stand-in"):
        Kept(path)
    monkeypatch.setattr(kept_books, "_PATIENCE_SECONDS", 10.0)
    ending = threading.Timer(0.3, first.close)
    ending.start()
    Kept(path).close()
    ending.join()


def test_no_proxy_hears_of_it(scene, write_job):
    """A job that trusts the environment's proxies rehearses with its stand-in alone, also when it goes on."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.1)
        environ = {"http_proxy": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        write_job(
            scene.service.base_url,
            api={"trust_env": True},
            limits={"batch_size": 5},
            guards={"max_failed_ratio": 1.0},
        )
        assert rehearse(scene, environ=environ).code == 6
        assert scene.do("reconcile", scene.run_dir().name, environ=environ).code == 5
        with pytest.raises(TimeoutError):
            proxy.accept()


@pytest.mark.parametrize("text", ["what is this?", "what is this?\n"])
def test_a_file_that_holds_no_books(tmp_path, text):
    """A file of something else is refused, and stays as it is."""
    path = tmp_path / "books.jsonl"
    path.write_text(text)
    with pytest.raises(SettingsRefused, match="cannot be read"):
        Kept(path)
    assert path.read_text() == text
    with pytest.raises(SettingsRefused, match="cannot keep its books"):
        Kept(tmp_path)
