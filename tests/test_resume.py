"""Taking a run up again: from its folder alone, at the place where it began, and never what cannot be trusted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scene import MOBILES, Scene, journal_rows

from bulkissue.sandbox import Running

#: So slow that an answer is on the disk before the next intent is due: a kill between them leaves nothing in doubt.
ONE_BY_ONE = {"batch_size": 5, "concurrency": 1, "requests_per_minute": 240}


@pytest.fixture
def scene(tmp_path: Path, service: Running, write_job: Callable[..., Path], write_input: Callable[..., Path]) -> Scene:
    """A run over 40 rows, killed after three answers of five rows each."""
    write_input(["mobile", "name"], [(mobile, "née B") for (mobile,) in MOBILES[:40]])
    write_job(service.base_url, limits=ONE_BY_ONE)
    scene = Scene(tmp_path, service)
    scene.run("answer.noted:3")
    return scene


def test_from_the_run_folder_alone(scene):
    """Input and job may be changed or gone, and the folder moved: the run goes on as it was planned."""
    (scene.folder / "input.csv").write_text("mobile\n919999999999\n")
    (scene.folder / "job.toml").unlink()
    moved = scene.run_dir().rename(scene.folder / "moved")
    resumed = scene.resume(moved)
    assert (resumed.code, resumed.counts) == (0, {"rows": 40, "succeeded": 40}), resumed.err
    assert {one["identifier"] for one in scene.service.issued()} == {mobile for (mobile,) in MOBILES[:40]}
    assert (moved / "success.csv").read_text(encoding="utf-8").count("née B") == 40


def test_it_says_what_it_is_about_to_do(scene):
    """Before it sends, resume says how many rows it sends, keeps and leaves to another run; also at the next resume."""
    first = scene.run_dir()
    assert scene.do("run", "job.toml", "--limit", "10", "--yes").code == 0
    said = scene.do("resume", first, "--yes", crash_at="intent.noted")
    for words in ("15 rows are left to send, in 3 requests", "15 were sent", "10 were issued"):
        assert words in said.err
    said = scene.do("resume", first, "--yes")
    for words in ("10 rows are left to send, in 2 requests", "20 were sent", "10 were issued"):
        assert words in said.err
    scene.judge()


def test_without_consent(scene):
    """Where nobody can be asked and nobody said --yes, nothing is sent, and the run can still be resumed."""
    refused = scene.do("resume", "latest", "--json")
    assert (refused.code, "--yes" in refused.json["error"]["hint"]) == (3, True)
    assert len(scene.service.issued()) == 15
    assert scene.resume().counts == {"rows": 40, "succeeded": 40}


@pytest.mark.parametrize("variable", ["BULKISSUE_BASE_URL", "BULKISSUE_ENVIRONMENT", "BULKISSUE_STATE_DIR"])
def test_only_where_it_began(variable, scene, serve):
    """Another base URL, environment or state folder is refused, and nothing is sent anywhere."""
    other = serve()
    value = {"BULKISSUE_BASE_URL": other.base_url, "BULKISSUE_ENVIRONMENT": "staging"}.get(variable, "elsewhere")
    refused = scene.do("resume", "latest", "--yes", "--json", environ={variable: value})
    assert refused.code == 3, refused.out
    assert not other.issued()
    assert len(scene.service.issued()) == 15


def test_nothing_left_to_send(scene):
    """A run that has come to its end is settled again, harmlessly, and ends with its own exit code."""
    ended = scene.resume()
    requests = scene.writes()
    for _ in range(2):
        again = scene.resume()
        assert (again.code, again.counts) == (ended.code, ended.counts)
        assert "nothing is left to send" in again.err
    assert scene.writes() == requests
    scene.judge()


FILES = ("journal.db", "journal.db-wal", "plan.parquet", "input.parquet", "job.toml", "run.json")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (name, harm)
        for name in FILES
        for harm in ("gone", "cut", "another run's")
        if (name, harm) != ("journal.db-wal", "cut")  # SQLite's own recovery is trusted: see the journal's tests
    ],
)
def test_what_cannot_be_trusted(name, harm, scene, write_input):
    """A run whose files are missing, torn or another run's is refused, nothing is sent, its target stays stopped."""
    folder = scene.run_dir()
    if harm == "another run's":
        write_input(["mobile"], MOBILES[50:60], name="other.csv")
        scene.do("run", "job.toml", "--input", "other.csv", "--occasion", "other", "--yes", crash_at="answer.noted")
        shutil.copy(scene.run_dir() / name, folder / name)
    elif harm == "cut":
        (folder / name).write_bytes((folder / name).read_bytes()[:-700])
    else:
        (folder / name).unlink()
    issued = len(scene.service.issued())
    refused = scene.resume(folder)
    assert refused.code == 3, (refused.out, refused.err)
    assert "sent nothing" not in refused.err
    assert scene.run().code == 3
    assert len(scene.service.issued()) == issued


def test_retry_is_not_resume(scene):
    """A run that can be resumed is not retried; a run without failures leaves nothing to retry."""
    refused = scene.do("retry", "latest", "--yes", "--json")
    assert (refused.code, "resume" in refused.json["error"]["hint"]) == (2, True)
    assert scene.resume().code == 0
    nothing = scene.do("retry", "latest", "--yes", "--json")
    assert (nothing.code, nothing.counts) == (0, {})
    assert len(list(scene.runs_dir.glob("*"))) == 1


def test_rows_already_refused_for_haste_are_sent(scene):
    """What SQLite finds agrees: no row has two attempts that were not void."""
    scene.resume()
    query = """
        SELECT count(*) FROM intent, json_each(intent.rows) LEFT JOIN answer USING (attempt)
        WHERE answer.void IS NULL GROUP BY json_each.value HAVING count(*) > 1
    """
    assert not list(journal_rows(scene.run_dir(), query))
