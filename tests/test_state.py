"""A state folder that is older than the runs beside it, as a restored backup is."""

import shutil

import pytest
from scene import MOBILES, Scene


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


def test_other_targets_and_rehearsals(scene, write_job):
    """Runs of other targets and rehearsals beside an older state stop nothing."""
    restore(scene)
    shutil.rmtree(scene.run_dir())
    assert scene.do("run", "job.toml", "--input", "first.csv", "--sandbox", "--yes", "--json").code == 0
    write_job(scene.service.base_url, target={"program_id": 469, "promotion_id": 7}, name="other.toml")
    assert scene.run(job="other.toml", path="first.csv").code == 0
    restore(scene)
    assert scene.run(path="first.csv").code == 0
