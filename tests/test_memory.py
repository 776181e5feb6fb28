"""What was issued stays known: where folders are moved, lost, put back from a copy, or have several names."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ended, read_ledger
from scene import MOBILES, Scene, wait_until

from bulkissue.commands import recovery
from bulkissue.errors import StateRefused, TargetLocked
from bulkissue.files import KernelLock
from bulkissue.job.target import Target
from bulkissue.sandbox import Fault, Promotion, Running
from bulkissue.state import history, register
from bulkissue.state.history import make_key
from bulkissue.state.registered import Registered

ID, IDENTIFIER = {"program_id": 469, "promotion_id": 69218}, {"program_id": 469, "promo_identifier": "DIWALI26"}
WORD = ["--by", "Asha", "--evidence", "ticket 4711"]


@pytest.fixture
def scene(tmp_path: Path, service: Running, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Scene:
    """A job over 20 customers, in batches of five, one after the other."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_input(["mobile"], MOBILES[:20], name="project/input.csv")
    write_job(service.base_url, limits={"batch_size": 5, "concurrency": 1}, name="project/job.toml")
    return Scene(folder, service)


def refused(ended: Ended, *words: str, code: int = 3) -> None:
    """It ended with that code, and its message or hint has these words."""
    assert ended.code == code, (ended.out, ended.err)
    for word in words:
        assert word in ended.err + ended.out


# A state folder that is not where it was


def test_a_project_moved_without_its_state(scene):
    """Runs beside a job keep a new state folder from being made, wherever their own was."""
    assert scene.run().code == 0
    run_id = scene.run_dir().name
    moved = scene.folder.with_name("moved")
    moved.mkdir()
    for name in ("runs", "job.toml", "input.csv"):
        (scene.folder / name).rename(moved / name)
    there = Scene(moved, scene.service)
    refused(there.run(), run_id, str(scene.folder / "state"), "--init-state")
    assert not (moved / "state").exists()
    assert len(scene.service.issued()) == 20


def test_another_state_folder_from_the_environment(scene):
    """BULKISSUE_STATE_DIR does not lead to a memory that knows nothing of the runs that are there."""
    assert scene.run().code == 0
    elsewhere = {"BULKISSUE_STATE_DIR": str(scene.folder / "elsewhere")}
    again = scene.do("run", "job.toml", "--yes", "--json", environ=elsewhere)
    refused(again, scene.run_dir().name, "shares its runs_dir")
    assert len(scene.service.issued()) == 20


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_a_run_whose_manifest_tells_nothing(harm, scene):
    """A run that cannot say what it was may have sent something: no state folder is made beside it."""
    assert scene.run().code == 0
    shutil.rmtree(scene.folder / "state")
    manifest = scene.run_dir() / "run.json"
    manifest.unlink() if harm == "gone" else manifest.write_text("{")
    refused(scene.run(), scene.run_dir().name)
    assert len(scene.service.issued()) == 20


def test_runs_that_sent_nothing(scene):
    """Neither a rehearsal nor a run that ended before its journal is a reason to refuse a new state folder."""
    assert scene.do("run", "job.toml", "--sandbox", "--json").code == 0
    assert scene.do("run", "job.toml", "--sandbox", "--json").code == 0
    scene.run("manifest.written")
    shutil.rmtree(scene.folder / "state")
    assert scene.run().counts == {"rows": 20, "succeeded": 20}
    assert scene.do("run", "job.toml", "--sandbox", "--json").code == 0, "nor does a real run keep one from rehearsing"


def test_latest_is_no_rehearsal(scene):
    """The latest run is the latest real one; a rehearsal only where there is nothing else."""
    assert scene.do("run", "job.toml", "--sandbox", "--json").code == 0
    assert scene.do("status", "latest", "--json").json["run_id"] == scene.run_dir().name
    real = scene.run().json["run_id"]
    assert scene.do("run", "job.toml", "--sandbox", "--json").code == 0
    assert scene.do("status", "latest", "--json").json["run_id"] == real


@pytest.mark.parametrize("command", ["resume", "retry", "resolve", "reconcile"])
def test_going_on_without_the_state_folder(command, scene):
    """Whatever goes on with a run needs the state folder it used, and never makes one."""
    scene.service.order(
        Fault(kind="drop", nth=(2,), route="bulk"), Fault(kind="status", status=400, body="empty", nth=(3,))
    )
    counts = scene.run().counts
    assert counts["unknown"] == 5, counts
    assert counts["failed"] == 5, counts
    run, row = scene.run_dir(), read_ledger(scene.run_dir(), "unknown")[0]["_bi_row"]
    if command == "resume":
        scene.run("answer.noted:1")
        run = scene.run_dir()
    issued = len(scene.service.issued())
    # Also where the folder is moved, and so no run lies beside the place where the state was.
    moved = scene.folder.with_name("moved")
    for folder in (scene.folder, moved):
        if folder == moved:
            scene.folder.rename(moved)
        shutil.rmtree(folder / "state", ignore_errors=True)
        extra = {
            "resume": ["--yes"],
            "retry": ["--yes"],
            "resolve": ["--row", row, "--as", "issued", *WORD],
            "reconcile": [],
        }
        there = Scene(folder, scene.service)
        gone_on = there.do(command, folder / "runs" / run.name, *extra[command], "--json")
        refused(gone_on, "state", "missing")
        assert not (folder / "state").exists()
        assert not (scene.folder / "state").exists()
    assert len(scene.service.issued()) == issued


# Locks that were replaced


@pytest.fixture
def slow(serve: Callable[..., Running], scene: Scene) -> Scene:
    """The same job, against a service that takes its time."""
    scene.service = serve(latency_seconds=0.3)
    job = scene.folder / "job.toml"
    lines = [
        f'base_url = "{scene.service.base_url}"' if line.startswith("base_url") else line
        for line in job.read_text().splitlines()
    ]
    job.write_text("\n".join(lines))
    return scene


def test_the_state_folder_is_put_back_while_a_run_sends(slow):
    """A run that is alive stays alone although its target's lock file was replaced by a copy."""
    first = slow.start("run", "job.toml", "--yes", "--json")
    wait_until(lambda: slow.writes() >= 1)
    state, copy = slow.folder / "state", slow.folder / "copy"
    shutil.copytree(state, copy)
    shutil.rmtree(state)
    copy.rename(state)
    run = slow.run_dir()
    refused(slow.run(), run.name, code=75)
    refused(slow.resume(run), run.name, code=75)
    refused(slow.do("reconcile", run, "--json"), run.name, code=75)
    refused(slow.do("resolve", run, "--row", "1", "--as", "issued", *WORD), run.name, code=75)
    assert first.alive
    assert first.wait().counts == {"rows": 20, "succeeded": 20}
    assert slow.run().counts == {"rows": 20, "already_issued": 20}
    assert (run / ".lock").stat().st_mode & 0o777 == 0o600


def test_a_resumed_run_holds_its_lock_too(slow):
    """While a resumed run sends, its own lock is held, and after a kill it is not."""
    slow.run("answer.noted:1")
    run = slow.run_dir()
    sent = slow.writes()
    resumed = slow.start("resume", run, "--yes", "--json")
    wait_until(lambda: slow.writes() > sent)
    assert KernelLock(run / ".lock").is_held()
    resumed.kill(signal.SIGKILL)
    resumed.wait()
    assert not KernelLock(run / ".lock").is_held()


def test_a_lock_file_replaced_while_it_is_taken(tmp_path):
    """Whoever waited for a lock file that was replaced meanwhile takes the one that has the name now."""
    target = Target("prod", "earn", promotion_id="1")
    make_key(tmp_path)
    with register.locked(tmp_path, target, "first"):
        pass
    path = tmp_path / target.names()[0] / "lock"
    other = KernelLock(path)
    assert other.take("other")

    def replace() -> None:
        time.sleep(0.04)
        path.with_name("new").touch(0o600)
        path.with_name("new").replace(path)
        other.give_back()

    replacing = threading.Thread(target=replace)
    replacing.start()
    with register.locked(tmp_path, target, "second"):
        replacing.join()
        assert KernelLock(path).is_held()
        with pytest.raises(TargetLocked), register.locked(tmp_path, target, "third"):
            pass


# History that is gone


def forget(scene: Scene, run_id: str = "*") -> None:
    """Delete what is remembered of a run."""
    found = list((scene.folder / "state").glob(f"**/history/{run_id}.parquet"))
    assert found
    for path in found:
        path.unlink()


@pytest.mark.parametrize("ending", ["settled", "recovered"])
def test_a_history_file_that_is_gone(ending, scene):
    """The history of a run whose books are written is made again from its journal before anything is planned."""
    scene.run("answer.noted:4") if ending == "recovered" else scene.run()
    run_id = scene.run_dir().name
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    forget(scene, run_id)
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    assert len(scene.service.issued()) == 20
    if ending == "settled":
        scene.judge()


def test_a_history_file_that_is_gone_at_a_resume(scene, write_job):
    """A resumed run is held against another's history also where that has to be made again first."""
    # So slow that the killed run's first answer is on the disk before its next intent is due.
    limits = {"batch_size": 5, "concurrency": 1, "requests_per_minute": 590}
    write_job(scene.service.base_url, limits=limits, name="project/job.toml")
    scene.run("answer.noted:1")
    first = scene.run_dir()
    second = scene.run()
    assert second.counts == {"rows": 20, "already_issued": 5, "succeeded": 15}
    forget(scene, second.json["run_id"])
    assert scene.resume(first).counts == {"rows": 20, "succeeded": 5, "already_issued": 15}
    assert len(scene.service.issued()) == 20


def test_history_and_journal_are_gone(scene):
    """Where neither can tell, the target stops and names the run, until a person says whom it issued."""
    scene.run()
    folder = scene.run_dir()
    forget(scene)
    shutil.rmtree(folder)
    refused(scene.run(), folder.name, "resolve")
    said = scene.do("resolve", folder.name, "--job", "job.toml", "--as", "issued", "--issued-to", "input.csv", *WORD)
    assert said.code == 0, said.err
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    forget(scene, folder.name)
    refused(scene.run(), folder.name)  # a word that is lost is not forgotten either
    assert len(scene.service.issued()) == 20


def test_a_history_file_of_one_name_is_gone(tmp_path):
    """History has to stand under every name that registers the run, and under no other."""
    both = Target("prod", "earn", promotion_id="1", promo_identifier="ONE")
    make_key(tmp_path)
    with register.locked(tmp_path, both, "r") as state:
        entry = Registered("r", str(tmp_path / "nowhere"), both.text(), "now", journal=True, state="settled")
        state.register(entry)
        state.write_history("r", history.nobody().lines)
        recovery.recover(state)
        (state.folders[1] / "history" / "r.parquet").unlink()
        with pytest.raises(StateRefused, match="run r of this target"):
            recovery.recover(state)
        (state.folders[1] / "runs" / "r.json").unlink()
        recovery.recover(state)


# A journal that is gone


@pytest.mark.parametrize("command", ["resume", "reconcile", "resolve"])
def test_journal_and_register_know_nothing(command, scene):
    """Without a journal and a register entry a run is only taken for unsent where its manifest says so."""
    scene.service.order(Fault(kind="drop", nth=(1,)), Fault(kind="status", status=429, retry_after=999, nth=(2,)))
    stopped = scene.run()
    assert stopped.json["state"] == "stopped", stopped.out
    folder = scene.run_dir()
    for path in (*folder.glob("journal.db*"), *(scene.folder / "state").glob("**/runs/*.json")):
        path.unlink()
    forget(scene)
    scene.service.clear()
    extra = {"resume": ["--yes"], "reconcile": [], "resolve": ["--row", "1", "--as", "not-issued", *WORD]}
    sent = scene.writes()
    refused(scene.do(command, folder, *extra[command], "--json"), "journal.db")
    assert scene.writes() == sent
    assert not (folder / "journal.db").exists()


def test_a_planned_run_without_a_journal(scene):
    """A run that ended before its journal was made is resumed from its plan."""
    scene.run("run.registered")
    assert scene.resume().counts == {"rows": 20, "succeeded": 20}


# Names and occasions


@pytest.mark.parametrize("later", [("id", "identifier"), ("identifier", "id")])
def test_two_names_are_one_in_every_occasion(
    later: tuple[str, str],
    serve: Callable[..., Running],
    tmp_path: Path,
    write_input: Callable[..., Path],
    write_job: Callable[..., Path],
) -> None:
    """That an id and an identifier are one promotion, learnt in one occasion, holds in all."""
    service = serve(promotions=(Promotion(id=69218, identifier="DIWALI26"),))
    write_input(["mobile"], MOBILES[:10])
    targets: dict[str, dict[str, Any]] = {"id": ID, "identifier": IDENTIFIER, "both": {**ID, **IDENTIFIER}}
    for name, target in targets.items():
        write_job(service.base_url, target=target, name=f"{name}.toml")
    scene = Scene(tmp_path, service)
    assert scene.run(job="both.toml").counts["succeeded"] == 10

    def november(name: str, *also: str) -> Ended:
        return scene.do("run", f"{name}.toml", "--occasion", "nov", "--json", *also)

    assert november(later[0], "--yes").counts == {"rows": 10, "succeeded": 10}
    assert november(later[1], "--dry-run").json["counts"]["already_issued"] == 10
    assert november(later[1], "--yes").counts == {"rows": 10, "already_issued": 10}
    assert scene.do("run", "id.toml", "--occasion", "dec", "--yes", "--json").counts["succeeded"] == 10
    assert len(service.issued()) == 30


def test_every_name_is_locked_in_the_occasion(tmp_path):
    """A target's names, learnt in another occasion, are locked together, and the other occasion is not."""
    both = Target("prod", "earn", promotion_id="1", promo_identifier="ONE", occasion="oct")
    make_key(tmp_path)
    with register.locked(tmp_path, both, "r") as state:
        state.register(Registered("r", "r", both.text(), "now"))
    one, other = Target("prod", "earn", promotion_id="1"), Target("prod", "earn", promo_identifier="ONE")
    with register.locked(tmp_path, one, "s") as state:
        assert [folder.relative_to(tmp_path).as_posix() for folder in state.folders] == [
            "prod/earn/promotion=1",
            "prod/earn/promo=ONE",
        ]
        with pytest.raises(TargetLocked), register.locked(tmp_path, other, "t"):
            pass
        with register.locked(tmp_path, both, "u"):
            pass
