"""Job files: what wins over what, where paths start, and which input files are named."""

import os
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from jobfiles import EARN, SECRET, Write, problems_of, tree, writer

from bulkissue.errors import InputRefused, JobRefused
from bulkissue.job import loading
from bulkissue.job.actions import Action
from bulkissue.job.inbox import input_files
from bulkissue.job.model import SETTINGS

EXAMPLES = sorted((Path(__file__).parent.parent / "jobs").glob("*.toml"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    """Every example job loads, is named after its action, and says nothing to warn of."""
    loaded = loading.load(path, environ={})
    assert loaded.job.job.action == path.stem
    assert loaded.warnings == ()
    assert loaded.runs_dir == path.parent.parent / "runs"
    assert loaded.job.input.paths[0].startswith(str(path.parent.parent / "sample_inputs"))


def test_there_is_an_example_for_each_action() -> None:
    """Each action has its example."""
    assert {path.stem for path in EXAMPLES} == set(Action)


def test_example_shows_every_key() -> None:
    """jobs/earn.toml, with its comment signs taken away, names every key but those of other actions."""
    text = next(path for path in EXAMPLES if path.stem == "earn").read_text()
    shown = {line.lstrip("# ").split(" =")[0] for line in text.splitlines() if " =" in line}
    elsewhere = {"series_id", "context_id", "id", "mobile", "email", "external_id", "prefer"}
    assert {key.rpartition(".")[2] for key in SETTINGS} - elsewhere <= shown


def test_defaults(write: Write) -> None:
    """A job of the fewest keys has the documented defaults, beside the job file."""
    path = write()
    loaded = loading.load(path, environ={})
    assert loaded.job.api.limits.requests_per_minute == 1000
    assert loaded.job.identifiers.prefer == ["id", "mobile", "email", "external_id"]
    assert loaded.runs_dir == path.parent / "runs"
    assert loaded.state_dir == path.parent / "state"
    assert loaded.base == path.parent
    assert loaded.origins["api.limits.concurrency"] == "default"
    assert loaded.origins["job.name"] == "file"
    assert loaded.job.issues().text() == "eu.api.example.com/earn/promotion=69218"


def test_byte_order_mark(write: Write) -> None:
    """A mark that Windows editors put before the first line is no problem."""
    path = write(b"\xef\xbb\xbf" + tomli_w.dumps(EARN).encode())
    assert loading.load(path, environ={}).job.job.name == "diwali"


def test_layers(write: Write) -> None:
    """A flag beats a variable, which beats the file, which beats the default; each setting tells its origin."""
    path = write(api__limits__concurrency=2, api__limits__batch_size=20, api__environment="file")
    environ = {"BULKISSUE_BATCH_SIZE": "30", "BULKISSUE_ENVIRONMENT": "variable", "BULKISSUE_CANARY": "False"}
    loaded = loading.load(path, flags={"api.environment": "flag", "job.occasion": None}, environ=environ)
    assert loaded.job.api.limits.concurrency == 2
    assert loaded.job.api.limits.batch_size == 30
    assert loaded.job.api.environment == "flag"
    assert loaded.job.guards.canary is False
    assert loaded.origins["api.limits.concurrency"] == "file"
    assert loaded.origins["api.limits.batch_size"] == "BULKISSUE_BATCH_SIZE"
    assert loaded.origins["api.environment"] == "flag"
    assert loaded.origins["job.occasion"] == "default"


def test_variable_for_a_missing_key(write: Write) -> None:
    """A required key may come from a variable alone."""
    path = write(api=None)
    loaded = loading.load(path, environ={"BULKISSUE_BASE_URL": "https://other.example.com/"})
    assert loaded.job.api.base_url == "https://other.example.com"


@pytest.mark.parametrize("key", ["api.limits", "guards", "reconcile"])
def test_every_number_has_a_variable(write: Write, key: str) -> None:
    """Every scalar key of limits, guards and reconcile can be set by its variable."""
    names = [leaf.rpartition(".")[2] for leaf in SETTINGS if leaf.rpartition(".")[0] == key]
    for name in names:
        text = "true" if name in {"canary", "after_run"} else "1"
        loaded = loading.load(write(), environ={f"BULKISSUE_{name.upper()}": text})
        assert loaded.origins[f"{key}.{name}"] == f"BULKISSUE_{name.upper()}"


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        (
            "BULKISSUE_CONCURRENCY",
            "many",
            'api.limits.concurrency (from BULKISSUE_CONCURRENCY): "many" is not a whole number',
        ),
        ("BULKISSUE_CONCURRENCY", "", 'api.limits.concurrency (from BULKISSUE_CONCURRENCY): "" is not a whole number'),
        (
            "BULKISSUE_CONCURRENCY",
            "8.5",
            'api.limits.concurrency (from BULKISSUE_CONCURRENCY): "8.5" is not a whole number',
        ),
        ("BULKISSUE_CANARY", "yes", 'guards.canary (from BULKISSUE_CANARY): "yes" is neither true nor false'),
        ("BULKISSUE_ENVIRONMENT", "", "api.environment (from BULKISSUE_ENVIRONMENT): must not be empty"),
        ("BULKISSUE_MAX_FAILED_RATIO", "nan", "guards.max_failed_ratio (from BULKISSUE_MAX_FAILED_RATIO): nan is"),
    ],
)
def test_bad_variable(write: Write, variable: str, text: str, said: str) -> None:
    """A variable that will not do is a problem that names the variable."""
    (problem,) = problems_of(write(), environ={variable: text})
    assert problem.startswith(said)


def test_unknown_variable_warns(write: Write) -> None:
    """An unknown BULKISSUE_ variable is a warning with the nearest name; secrets' variables and others' are none."""
    environ = {
        "BULKISSUE_CANARI": SECRET,
        "BULKISSUE_CLIENT_SECRET": SECRET,
        "BULKISSUE_PASSWORD_FILE": "x",
        "LANES": "1",
    }
    (warning,) = loading.load(write(), environ=environ).warnings
    assert warning == "the variable BULKISSUE_CANARI means nothing to bulkissue; did you mean BULKISSUE_CANARY?"


def test_where_paths_start(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of the file start at the job file, those of flags and variables at the current directory."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    path = write(
        name="jobs/job.toml",
        input__paths=["../in/*.csv", "/abs/x.csv"],
        output={"runs_dir": "../runs", "state_dir": "../state"},
    )
    of_file = loading.load(path, environ={})
    assert of_file.job.input.paths == [f"{tmp_path}/in/*.csv", "/abs/x.csv"]
    assert (of_file.runs_dir, of_file.state_dir) == (tmp_path / "runs", tmp_path / "state")
    flags = {"input.paths": ("a.csv", Path("/abs/y.csv")), "output.runs_dir": "r"}
    of_flags = loading.load(Path("../jobs/job.toml"), flags=flags, environ={"BULKISSUE_STATE_DIR": "s"})
    assert of_flags.job.input.paths == [f"{here}/a.csv", "/abs/y.csv"]
    assert (of_flags.runs_dir, of_flags.state_dir) == (here / "r", here / "s")
    assert of_flags.path == path


def test_state_folder_through_a_link(write: Write, tmp_path: Path) -> None:
    """The state folder has one name, also where the job's folder is reached through a link."""
    path = write(name="jobs/job.toml", output__state_dir="../state")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "jobs"
    link.symlink_to(path.parent)
    assert loading.load(link / "job.toml", environ={}).state_dir == loading.load(path, environ={}).state_dir


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("a = 1\nname = diwali\n", "line 2, column 8", "quotes"),
        ('path = "C:\\data"\n', "line 1, column ", "single quotes"),
        ("a = 1\na = 2\n", "line 2, column ", "twice"),
        ('a = "x\n', "line 1, column ", "closing quote"),
        ("mobile no = 1\n", "line 1, column ", "needs quotes"),
        ("occasion = 2026-11\n", "line 1, column ", "quotes"),
        ("a = [1,", "end of document", "quotes"),
        (b'a = 1\nb = "caf\xe9"\n', "line 2, column 9", "UTF-8"),
        ('a = "x"\n'.encode("utf-16"), "line 1, column 1", "UTF-8"),
    ],
)
def test_syntax(write: Write, text: str | bytes, place: str, hint: str) -> None:
    """A syntax problem is told with line and column and what to try, without the line's own text."""
    path = write(text)
    with pytest.raises(JobRefused) as refused:
        loading.load(path, environ={})
    assert str(path) in str(refused.value)
    assert refused.value.problems[0].startswith(place)
    assert hint in str(refused.value.hint)
    assert "diwali" not in str(refused.value)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_unreadable_job_file(tmp_path: Path, name: str) -> None:
    """A missing file and a folder are refused by name, with exit code 3."""
    with pytest.raises(JobRefused, match="cannot be read") as refused:
        loading.load(tmp_path / name, environ={})
    assert refused.value.exit_code == 3


def test_describe(write: Write, tmp_path: Path) -> None:
    """Every setting has its line, in order, with its value and origin, and secrets only their state."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    environ = {"BULKISSUE_CONCURRENCY": "3", "BULKISSUE_CLIENT_KEY": SECRET, "BULKISSUE_CLIENT_SECRET_FILE": str(file)}
    loaded = loading.load(write(), flags={"job.occasion": "two"}, environ=environ)
    lines = loading.describe(loaded, environ)
    keys = [key for key, _, _ in lines if key.islower()]
    assert keys == list(SETTINGS)
    assert ("config_version", "1", "file") in lines
    assert ("job.action", '"earn"', "file") in lines
    assert ("job.occasion", '"two"', "flag") in lines
    assert ("api.limits.concurrency", "3", "BULKISSUE_CONCURRENCY") in lines
    assert ("api.environment", "not set", "default") in lines
    assert ("guards.canary", "true", "default") in lines
    assert ("BULKISSUE_CLIENT_KEY", "set (environment)", "BULKISSUE_CLIENT_KEY") in lines
    assert ("BULKISSUE_CLIENT_SECRET", "set (file)", "BULKISSUE_CLIENT_SECRET_FILE") in lines
    assert SECRET not in str(lines)
    assert ("BULKISSUE_CLIENT_KEY", "missing", "") in loading.describe(loaded, {})


def test_effective_file_gives_the_same_job(write: Write, tmp_path: Path) -> None:
    """The effective job, loaded from another folder without the environment and flags, is the same job."""
    path = write(input={"paths": ["in/*.csv"], "delimiter": "tab"}, api__environment="x", job__name='a "b" \\ é')
    loaded = loading.load(path, flags={"job.occasion": "two"}, environ={"BULKISSUE_CONCURRENCY": "3"})
    (tmp_path / "run").mkdir()
    copy = tmp_path / "run" / "job.toml"
    copy.write_bytes(loading.effective_toml(loaded))
    again = loading.load(copy, environ={})
    assert again.job == loaded.job
    assert again.job.api.limits.concurrency == 3
    assert loading.effective_toml(again) == loading.effective_toml(loaded)


texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=4, max_size=6), st.floats(0.001, 3600))
def test_any_job_survives_its_effective_file(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], seconds: float
) -> None:
    """Whatever texts a job holds, it is either refused or the same when loaded from its effective file."""
    folder = tmp_path_factory.mktemp("any [x]")
    name, occasion, column, runs, *paths = words
    content = tree(job__name=name, job__occasion=occasion, input__paths=paths, input__columns__id=column)
    content |= {"output": {"runs_dir": runs}}
    content["api"]["limits"] = {"read_timeout_seconds": seconds}
    (folder / "job.toml").write_text(tomli_w.dumps(content))
    try:
        loaded = loading.load(folder / "job.toml", environ={})
    except JobRefused:
        return
    (folder / "effective.toml").write_bytes(loading.effective_toml(loaded))
    assert loading.load(folder / "effective.toml", environ={}).job == loaded.job


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.csv", "a.csv", "c.TSV", "d.xlsx", ".hidden.csv", ".e.csv.partial", "f.csv.partial", "~$d.xlsx"):
        (folder / name).write_text("x")
    (folder / "done").mkdir()
    (folder / "done" / "z.csv").write_text("x")
    return folder


def names_of(path: Path, *paths: str) -> list[str]:
    flags = {"input.paths": paths} if paths else {}
    loaded = loading.load(path, flags=flags, environ={})
    files = input_files(loaded)
    assert all(file.is_absolute() for file in files)
    return [file.name for file in files]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["in/*.csv"], ["a.csv", "b.csv"]),
        (["in/b.csv", "in/*.csv", "in/../in/a.csv"], ["a.csv", "b.csv"]),
        (["in/*"], ["a.csv", "b.csv", "c.TSV", "d.xlsx"]),
        (["in/**/*.csv"], ["a.csv", "b.csv", "z.csv"]),
        (["in/[ab].csv"], ["a.csv", "b.csv"]),
        (["in/?.xlsx"], ["d.xlsx"]),
    ],
)
def test_input_files(write: Write, inbox: Path, paths: list[str], names: list[str]) -> None:
    """Patterns give their files sorted and each once, without hidden and unfinished ones and folders."""
    assert names_of(write(input__paths=paths)) == names


def test_input_files_by_flag(write: Write, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files given by flag start at the current directory and replace the job's."""
    monkeypatch.chdir(inbox)
    assert names_of(write(input__paths=["in/*.csv"]), "d.xlsx") == ["d.xlsx"]


def test_brackets_in_names(write: Write, inbox: Path) -> None:
    """A file whose name holds pattern signs is found by its name, and so are files below such a folder."""
    (inbox / "a[1].csv").write_text("x")
    (inbox / "a1.csv").write_text("x")
    assert names_of(write(input__paths=["in/a[1].csv"])) == ["a[1].csv"]
    odd = inbox / "jobs [x*]"
    odd.mkdir()
    (odd / "p[2].csv").write_text("x")
    (odd / "q.csv").write_text("x")
    path = write(name="in/jobs [x*]/job.toml", input__paths=["*.csv"])
    assert names_of(path) == ["p[2].csv", "q.csv"]
    path = write(name="in/jobs [x*]/job.toml", input__paths=["p[2].csv"])
    assert names_of(path) == ["p[2].csv"]
    (odd / "sub").mkdir()
    (odd / "sub" / "r.csv").write_text("x")
    path = write(name="in/jobs [x*]/job.toml", input__paths=["s*/r.csv"])
    assert names_of(path) == ["r.csv"]


def test_links_keep_their_name(write: Write, inbox: Path, tmp_path: Path) -> None:
    """A link to a file is taken once, under the first of its names, and needs the ending itself."""
    (tmp_path / "store").write_text("x")
    (inbox / "done" / "m.csv").symlink_to(tmp_path / "store")
    (inbox / "done" / "n.csv").symlink_to(tmp_path / "store")
    assert names_of(write(input__paths=["in/done/m.csv", "in/done/n.csv", "in/done/z.csv"])) == ["m.csv", "z.csv"]


def test_refused_inputs_are_all_named(write: Write, inbox: Path) -> None:
    """Every pattern that gives nothing usable is named at once, with exit code 4."""
    (inbox / "x.csv.7z").write_text("x")
    (inbox / "dangling.csv").symlink_to("nowhere")
    (inbox / "loop.csv").symlink_to("loop.csv")
    os.mkfifo(inbox / "pipe.csv")
    paths = ["none.csv", "none/*.csv", "in", "in/.hidden.csv", "in/*.partial", "in/x.csv.7z", "in/dangling.csv"]
    paths += ["in/pipe.csv", "in/loop.csv", "in/d*e", "in/a.csv"]
    with pytest.raises(InputRefused) as refused:
        names_of(write(input__paths=paths))
    lines = str(refused.value).splitlines()[1:]
    said = ["no such file", "no such file", "is a folder", "left out", "left out", "not end in"]
    said += ["cannot be read", "a pipe or a device", "cannot be read", "no such file"]
    assert len(lines) == len(said)
    for line, path, words in zip(lines, paths, said, strict=False):
        assert path in line
        assert words in line
    assert refused.value.exit_code == 4
    assert str(inbox.parent) in str(refused.value.hint)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable_input(write: Write, inbox: Path) -> None:
    """A file that may not be read is refused."""
    (inbox / "a.csv").chmod(0)
    with pytest.raises(InputRefused, match="cannot be read"):
        names_of(write(input__paths=["in/a.csv"]))


def test_no_input_at_all(write: Write) -> None:
    """A job without paths is refused at its input, not when loaded."""
    with pytest.raises(InputRefused, match="names no input"):
        names_of(write())
