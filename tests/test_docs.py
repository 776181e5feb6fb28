"""What a user reads is true of the program: the README, the help texts, the job files, the lines for cron, the demo."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from conftest import ENVIRON

import bulkissue
from bulkissue import failpoint
from bulkissue.cli.main import cli
from bulkissue.errors import EXIT_MEANINGS
from bulkissue.job.model import KEYS, SETTINGS, Job
from bulkissue.outcomes import IDENTIFIER_TYPES, LEDGER_COLUMNS, REASONS, Outcome
from bulkissue.state.run_folder import FORMAT, Manifest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
ALL = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
SOURCES = sorted((ROOT / "bulkissue").rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.toml"))

CLOSED_FAMILIES = {"answer", "crash", "dedupe", "guard", "net", "reconcile", "resolve", "validate"}
OPEN_FAMILIES = {"api", "http"}
# DESIGN §3. `error` is the service's word too, and is forbidden as an outcome only.
FORBIDDEN = re.compile(
    r"\b(re-?runs?|re-?play\w*|re-?process\w*|skipp?\w*|processed|dead.letter\w*|utils?|managers?|handlers?|helpers?)\b",
    re.IGNORECASE,
)


def help_pages() -> dict[str, str]:
    def page(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
        return command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=100)

    whole = page(cli, "bulkissue")
    pages = [whole, *(page(command, name, whole) for name, command in cli.commands.items())]
    return {context.command_path: context.get_help() for context in pages}


def quoted_reasons() -> set[str]:
    """Texts in the program's source that look like a reason of a closed family."""
    looks = re.compile(rf"({'|'.join(sorted(CLOSED_FAMILIES))})\.[a-z_]+")
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and looks.fullmatch(node.value):
                found.add(node.value)
    return found - set(failpoint.PLACES)


def generate(*arguments, cwd=ROOT, script=ROOT / "docs" / "generate.py"):
    return subprocess.run(
        [sys.executable, script, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_generated_parts_are_not_stale():
    """The pages' generated parts and the JSON Schema are what the program says today."""
    ended = generate("--check")
    assert ended.returncode == 0, ended.stderr


def test_a_stale_part_is_named(tmp_path):
    """A generated part that somebody edited is named, written anew, and nothing outside the markers changes."""
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / "generate.py"
    script.write_text((ROOT / "docs" / "generate.py").read_text(encoding="utf-8"), encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        (tmp_path / "docs" / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    page = tmp_path / "docs" / "exit-codes.md"
    as_it_is = page.read_text(encoding="utf-8")
    page.write_text(as_it_is.replace("| 75 |", "| 76 |"), encoding="utf-8")
    ended = generate("--check", cwd=tmp_path, script=script)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[:2] == [
        "stale: docs/exit-codes.md, generated part: exit codes",
        "stale: docs/job.schema.json",
    ]
    assert "stale: docs/run.schema.json" in ended.stderr
    assert generate(cwd=tmp_path, script=script).returncode == 0
    assert page.read_text(encoding="utf-8") == as_it_is


def test_every_reason_is_listed():
    """Every reason that the source names is in REASONS, and the pages list all of these."""
    found = quoted_reasons()
    assert len(found) > 40
    assert found <= REASONS.keys()
    assert [reason for reason in REASONS if f"| `{reason}` |" not in ALL] == []
    assert {reason.partition(".")[0] for reason in REASONS} == CLOSED_FAMILIES
    assert [name for name in CLOSED_FAMILIES | OPEN_FAMILIES if f"| `{name}.*` |" not in ALL] == []


def test_words_that_users_script_against_are_in_the_pages():
    """The pages name every outcome, ledger column, exit code, identifier type and key of the job file."""
    names = [*Outcome, *LEDGER_COLUMNS, *IDENTIFIER_TYPES, *(key.rpartition(".")[2] for key in SETTINGS)]
    assert [name for name in names if f"`{name}`" not in ALL] == []
    assert [code for code in EXIT_MEANINGS if f"| {int(code)} |" not in ALL] == []


def test_every_key_is_described():
    """Every key of the job file has a description, and stands in jobs/earn.toml where earn can use it."""
    assert [key for key, info in SETTINGS.items() if not info.description] == []
    example = (ROOT / "jobs" / "earn.toml").read_text(encoding="utf-8")
    elsewhere = {"series_id", "context_id", "id", "mobile", "email", "external_id", "prefer"}
    keys = {key.rpartition(".")[2] for key in SETTINGS} - elsewhere
    assert sorted(key for key in keys if not re.search(rf"^(# )?{key} =", example, re.MULTILINE)) == []


def test_schema_is_that_of_the_model():
    """docs/job.schema.json knows every key of the job file."""
    schema = json.loads((ROOT / "docs" / "job.schema.json").read_text(encoding="utf-8"))
    known = set(schema["properties"]).union(*(part.get("properties", {}) for part in schema["$defs"].values()))
    assert known == {"environments", *(key.rpartition(".")[2] for key in KEYS)}


def test_schema_of_the_manifest():
    """docs/run.schema.json describes every key of run.json, in words, and its format."""
    schema = json.loads((ROOT / "docs" / "run.schema.json").read_text(encoding="utf-8"))
    keys = schema["$defs"]["Manifest"]["properties"]
    assert list(keys) == list(Manifest.__struct_fields__)
    assert [name for name, info in keys.items() if not info.get("description")] == []
    assert keys["format"]["const"] == FORMAT


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_example_jobs_load(path, command):
    """Each example is a whole job file whose input is there: its dry run finds rows to send."""
    assert path.stem == Job.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).job.action
    ended = command("run", path, "--dry-run", "--json", cwd=ROOT)
    assert ended.json["to_send"] > 0, ended.err


def cron_lines() -> list[str]:
    text = (ROOT / "jobs" / "crontab.example").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if re.match(r"[0-9*]", line)]


def test_cron_lines_parse():
    """Every bulkissue command in the example for cron is one that the command line takes, and its job file is there."""
    for line in cron_lines():
        found = re.findall(r"\.venv/bin/bulkissue (.*?)(?: >>| \||;|$)", line)
        assert found
        for command in found:
            name, *arguments = shlex.split(command)
            context = cli.commands[name].make_context(name, arguments)
            job = context.params.get("job")
            assert job is None or (ROOT / job).is_file()


def test_a_line_of_the_example_for_cron_is_shown():
    """The crontab line in the pages is the beginning of one in jobs/crontab.example."""
    shown = [line for line in ALL.splitlines() if re.match(r"[0-9*]+ [0-9*]+ \* \* \*", line)]
    assert shown
    assert all(any(line.startswith(one) for line in cron_lines()) for one in shown)


def test_commands_in_the_pages_parse():
    """Every bulkissue command in the pages' shell blocks is one that the command line takes."""
    blocks = re.findall(r"```sh\n(.*?)```", ALL, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("bulkissue ")]
    assert len(lines) > 20
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = cli.commands[name]
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.commands[name]
        command.make_context(name, arguments)


def test_readme_job_file_loads(tmp_path, command):
    """The job file that README begins with is a whole one."""
    block = re.search(r"```toml\n( +config_version.*?)```", README, re.DOTALL)
    assert block
    (tmp_path / "mine.toml").write_text(block[1], encoding="utf-8")
    ended = command("check", tmp_path / "mine.toml")
    assert ended.code == 0, ended.err


def anchors(page: Path) -> set[str]:
    return {
        re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    """Every link between the pages leads to a page and a heading of it, and every file named in backquotes is there."""
    text = page.read_text(encoding="utf-8")
    for place, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        other = (page.parent / place).resolve() if place else page
        assert other.exists(), place
        assert not anchor or anchor in anchors(other), (place, anchor)
    named = set(re.findall(r"`((?:docs|jobs|bulkissue)/[\w./-]+|CHANGELOG\.md|LICENSE)`", text)) - {"jobs/mine.toml"}
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_one_page():
    """It has at most 200 lines, and leads to every page."""
    assert len(README.splitlines()) <= 200
    pages = {f"docs/{path.name}" for path in PAGES if path.parent.name == "docs"} | {"CONTRIBUTING.md", "SECURITY.md"}
    assert pages <= set(re.findall(r"\]\(([^)#]*)\)", README))


@pytest.fixture
def scene_of_python(tmp_path, service, write_input, write_job):
    (tmp_path / "jobs").mkdir()
    write_input(["mobile"], [("919986000586",)], "inbox/today.csv")
    write_job(service.base_url, name="jobs/earn.toml")
    return tmp_path, service


def test_python_on_the_pages(scene_of_python, monkeypatch, capsys):
    """The program that docs/from-python.md begins with runs as it stands."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "from-python.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code
    folder, service = scene_of_python
    monkeypatch.chdir(folder)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    exec(compile(code[1], "from-python.md", "exec"), {})
    assert "'succeeded': 1" in capsys.readouterr().out
    assert len(service.issued()) == 1


WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "jobs" / "crontab.example"]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.name)
def test_pages_use_our_words(page):
    """No page for users has a word that DESIGN §3 rules out."""
    assert FORBIDDEN.findall(page.read_text(encoding="utf-8")) == []


def test_help_uses_our_words():
    """No help text and no reason has a word that DESIGN §3 rules out."""
    said = {**help_pages(), **REASONS, **{str(code): text for code, text in EXIT_MEANINGS.items()}}
    assert {name: FORBIDDEN.findall(text) for name, text in said.items() if FORBIDDEN.search(text)} == {}


def test_list_of_commands_is_whole():
    """`bulkissue --help` says of every command what it is for, in a sentence that is not cut off."""
    page = cli.make_context("bulkissue", [], resilient_parsing=True, terminal_width=80).get_help()
    assert [name for name in cli.commands if not re.search(rf"^  {name} +\S.*[^.]\.$", page, re.MULTILINE)] == []


def test_demo(tmp_path):
    """The demo ends with 0, says where the ledgers are, and leaves nothing but its own folder."""
    for name in ("bulkissue", "jobs", "sample_inputs", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()  # no link: the script finds its way from where it lies
    script = (ROOT / "docs" / "demo.sh").read_text(encoding="utf-8")
    (tmp_path / "docs" / "demo.sh").write_text(script, encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    ended = subprocess.run(
        ["bash", "docs/demo.sh"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "BULKISSUE_CONCURRENCY": "nonsense"},
    )
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} - before == {"demo"}
    [run] = (tmp_path / "demo" / "runs").iterdir()
    assert f"demo/runs/{run.name}/success.csv" in ended.stdout


def test_examples_for_schedulers():
    """The Python examples compile, and name nothing of bulkissue that is not there."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "from-python.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) == 3
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "bulkissue":
                assert {one.name for one in node.names} <= set(bulkissue.__all__)
