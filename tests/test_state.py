"""A state folder that is older than the runs beside it, as a restored backup is."""

import shutil

import pytest
from scene import MOBILES, Scene, wait_until

from bulkissue.commands.state import examine
from bulkissue.errors import JobRefused
from bulkissue.failpoint import PLACES_OF_REBUILD
from bulkissue.job.loading import load
from bulkissue.sandbox import Fault
from bulkissue.state import folder
from bulkissue.state.run_folder import read_manifest
from bulkissue.state.store import FolderStore


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """A job over twenty mobiles that has issued to the first ten, with a copy of its state from then."""
    write_input(["mobile"], MOBILES[:20])
    write_input(["mobile"], MOBILES[:10], "first.csv")
    write_job(service.base_url)
    it = Scene(tmp_path, service)
    assert it.run(path="first.csv").code == 0
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    assert it.run().code == 0
    return it


def restore(it):
    shutil.rmtree(it.folder / "state")
    shutil.copytree(it.folder / "backup", it.folder / "state")


def test_a_restored_backup(scene):
    """Nothing is sent under a state that is older than its runs, until it has taken them in from their journals."""
    assert scene.do("state", "check", "job.toml").code == 0
    restore(scene)
    refused = scene.run()
    assert refused.code == 3
    assert "does not know 1 runs of this target" in refused.err
    assert scene.do("state", "check", "job.toml").code == 3
    rebuilt = scene.do("state", "rebuild", "job.toml")
    assert (rebuilt.code, rebuilt.out.startswith("1 runs taken in")) == (0, True), rebuilt.err
    assert scene.do("state", "check", "job.toml").code == 0
    again = scene.run()
    assert again.counts == {"rows": 20, "already_issued": 20}, again.err
    assert len(scene.service.issued()) == 20
    assert scene.do("state", "rebuild", "job.toml").out.startswith("0 runs")


def test_a_lost_journal(scene):
    """A run whose journal is gone is named by the rebuild, and its target stays stopped."""
    restore(scene)
    (scene.run_dir() / "journal.db").unlink()
    rebuilt = scene.do("state", "rebuild", "job.toml")
    assert rebuilt.code == 3
    assert scene.run_dir().name in rebuilt.err
    assert scene.run().code == 3
    assert len(scene.service.issued()) == 20


def test_a_rehearsal(scene):
    """A rehearsal beside a restored state stops nothing: it sent nothing."""
    restore(scene)
    shutil.rmtree(scene.run_dir())
    assert scene.do("run", "job.toml", "--input", "first.csv", "--sandbox", "--yes", "--json").code == 0
    assert scene.run(path="first.csv").code == 0


def test_a_run_of_another_target(scene, write_job):
    """What was begun under a state folder and is not known to it stops all of its targets: more may be missing."""
    write_job(scene.service.base_url, target={"program_id": 469, "promotion_id": 7}, name="other.toml")
    assert scene.run(job="other.toml", path="first.csv").code == 0
    hidden = scene.run_dir()
    restore(scene)
    shutil.move(sorted(scene.runs_dir.iterdir())[1], scene.folder / "elsewhere" / "run")
    refused = scene.run(path="first.csv")
    assert refused.code == 3
    assert hidden.name in refused.err
    missing = scene.do("state", "rebuild", "job.toml")
    assert missing.code == 3
    assert "1 more were begun" in missing.err
    assert scene.run().code == 3
    again = scene.folder / "elsewhere" / next(iter((scene.folder / "elsewhere").iterdir())).name
    run_id = read_manifest(again).run_id
    again.rename(scene.folder / "elsewhere" / run_id)
    assert scene.do("state", "rebuild", "job.toml", "--runs-dir", "elsewhere").code == 0
    assert scene.run().counts == {"rows": 20, "already_issued": 20}


def test_folders_that_are_gone_for_good(scene, write_job):
    """A person may say that what is missing does not matter."""
    write_job(scene.service.base_url, target={"program_id": 469, "promotion_id": 7}, name="other.toml")
    assert scene.run(job="other.toml", path="first.csv").code == 0
    restore(scene)
    shutil.rmtree(sorted(scene.runs_dir.iterdir())[1])
    assert scene.do("state", "rebuild", "job.toml").code == 3
    assert scene.do("state", "rebuild", "job.toml", "--without-missing").code == 0
    assert scene.run().counts == {"rows": 20, "already_issued": 10, "succeeded": 10}


def test_half_restored(scene):
    """A count that is older than the register, or a history file that is older than its entry, does not pass."""
    shutil.copy(scene.folder / "backup" / "begun", scene.folder / "state" / "begun")
    refused = scene.run()
    assert refused.code == 3
    assert "half restored" in refused.err
    assert scene.do("state", "rebuild", "job.toml").code == 0
    for history in (scene.folder / "state").rglob(f"{scene.run_dir().name}.parquet"):
        shutil.copy(next(path for path in history.parent.iterdir() if path != history), history)
    checked = scene.do("state", "check", "job.toml")
    assert checked.code == 3
    assert "is not what was written last" in checked.out
    assert scene.run().counts == {"rows": 20, "already_issued": 20}


def test_two_state_folders_by_turns(scene):
    """Each would forget whom the other issued: the second is refused until it has taken the first one's runs in."""
    moved = scene.folder / "backup-2"
    (scene.folder / "state").rename(moved)
    assert scene.do("run", "job.toml", "--yes", "--json", "--init-state", "--input", "first.csv").code == 0
    issued = len(scene.service.issued())
    (scene.folder / "state").rename(scene.folder / "second")
    moved.rename(scene.folder / "state")
    refused = scene.run(path="first.csv")
    assert refused.code == 3
    assert "another state folder" in refused.err
    assert scene.do("state", "rebuild", "job.toml").code == 0
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    assert len(scene.service.issued()) == issued


def test_a_backup_while_nothing_runs(scene):
    """A backup is a state folder, readable by nobody else, and remembers everybody."""
    made = scene.do("state", "backup", "job.toml", "copy")
    assert made.code == 0, made.err
    assert scene.do("state", "backup", "job.toml", "copy").code == 2
    for path in (scene.folder / "copy").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    shutil.rmtree(scene.folder / "state")
    (scene.folder / "copy").rename(scene.folder / "state")
    assert scene.do("state", "check", "job.toml").code == 0
    assert scene.run().counts == {"rows": 20, "already_issued": 20}


def test_a_backup_while_a_run_sends(scene, write_input):
    """Put in place after the run has ended, it learns the rest from the run's journal."""
    write_input(["mobile"], MOBILES[100:140], "slow.csv")
    scene.service.order(Fault(kind="status", status=429, retry_after=2, nth=(1,), route="bulk"))
    started = scene.start("run", "job.toml", "--input", "slow.csv", "--yes", "--json")
    wait_until(lambda: scene.service.stats()["requests"].get("bulk", {}).get("429"))
    assert scene.do("state", "backup", "job.toml", "copy").code == 0
    assert started.wait().code == 0
    shutil.rmtree(scene.folder / "state")
    (scene.folder / "copy").rename(scene.folder / "state")
    again = scene.run(path="slow.csv")
    assert again.counts == {"rows": 40, "already_issued": 40}, again.err
    assert len(scene.service.issued()) == 60


@pytest.mark.parametrize("place", PLACES_OF_REBUILD)
def test_a_rebuild_that_is_killed(scene, place):
    """Wherever it is killed, nobody is forgotten, and it can be said again."""
    restore(scene)
    scene.do("state", "rebuild", "job.toml", crash_at=place)
    between = scene.run()
    assert between.code in {0, 3}, between.err
    assert scene.do("state", "rebuild", "job.toml").code == 0
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    assert len(scene.service.issued()) == 20


def test_a_second_copy_of_a_run_folder(scene):
    """A copy beside the registered folder is for looking at only."""
    copy = scene.folder / "away" / scene.run_dir().name
    shutil.copytree(scene.run_dir(), copy)
    refused = scene.do("reconcile", copy, "--sample", "3")
    assert refused.code == 3
    assert "is a copy" in refused.err
    assert scene.do("status", copy).code == 0


def test_one_service_under_two_names(scene, write_job):
    """Another name of the host sends nothing to customers who have it, until the job says what the name means."""
    other = scene.service.base_url.replace("127.0.0.1", "localhost")
    write_job(other, name="alias.toml")
    refused = scene.run(job="alias.toml")
    assert refused.code == 3
    assert "20 customers of this input have it, or may have it, in 127.0.0.1" in refused.err
    assert scene.do("run", "alias.toml", "--dry-run").code == 3
    assert len(list(scene.runs_dir.iterdir())) == 2
    write_job(other, name="alias.toml", api={"environment": "127.0.0.1"})
    assert scene.run(job="alias.toml").counts == {"rows": 20, "already_issued": 20}
    write_job(other, name="alias.toml", api={"other_services": ["127.0.0.1"]})
    assert scene.run(job="alias.toml").counts == {"rows": 20, "succeeded": 20}


def test_a_host_is_compared_without_case_and_port(write_job):
    """EU.example.com and eu.example.com:443 are one environment; eu.example.com. is refused."""
    names = {
        load(write_job(url, name="named.toml"), flags={}, environ={}).job.issues().text()
        for url in ("https://EU.example.com", "https://eu.example.com", "https://eu.example.com:443/x")
    }
    assert len(names) == 1
    with pytest.raises(JobRefused):
        load(write_job("https://eu.example.com.", name="named.toml"), flags={}, environ={})


def test_a_state_folder_that_is_lost_for_good(scene):
    """Begun anew, it takes the runs from before in, as they are asked for."""
    shutil.rmtree(scene.folder / "state")
    assert scene.run().code == 3
    empty = scene.do("run", "job.toml", "--limit", "0", "--init-state", "--yes", "--json")
    assert empty.counts == {"rows": 20, "not_attempted": 20}, empty.err
    rebuilt = scene.do("state", "rebuild", "job.toml")
    assert rebuilt.out.startswith("2 runs taken in"), rebuilt.err
    assert scene.run().counts == {"rows": 20, "already_issued": 20}
    assert len(scene.service.issued()) == 20


def test_two_first_runs_meet(tmp_path, monkeypatch):
    """Between the look at the state folder and the look for runs another process may have made both: no refusal."""
    state_dir, runs_dir = tmp_path / "state", tmp_path / "runs"
    looking = folder._run_that_may_have_sent

    def looking_late(where):
        folder.open_state(state_dir, where, init=True)
        (where / "r").mkdir(parents=True)
        (where / "r" / "run.json").write_text('{"state": "running"}')
        return looking(where)

    monkeypatch.setattr(folder, "_run_that_may_have_sent", looking_late)
    folder.open_state(state_dir, runs_dir, init=False)
    assert folder.read_mark(state_dir) is not None


def test_a_run_begins_while_one_looks(scene, monkeypatch):
    """A run that registers between the look at the register and the look at the folders was not forgotten."""
    scene.run()
    loaded = load(scene.folder / "job.toml", environ={})
    known = FolderStore.known_runs
    answers: list[set[str]] = [set()]
    monkeypatch.setattr(FolderStore, "known_runs", lambda self: answers.pop() if answers else known(self))
    found = examine(loaded.state_dir, [loaded.runs_dir], loaded.job.issues())
    assert found.says(loaded.state_dir) == []
    assert not answers
