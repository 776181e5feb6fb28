"""What is given to others: wheel, sdist and container, and the odd machines that they come to."""

import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from flit_core import buildapi  # type: ignore[import-untyped]  # it has none
from packaging.metadata import Metadata
from scene import MOBILES

from bulkissue import __version__

ROOT = Path(__file__).resolve().parent.parent
CONTAINERFILE = ROOT / "packaging" / "Containerfile"
SHIPPED = {"bulkissue/py.typed", "bulkissue/sandbox/bad-night.toml"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, from a copy of the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "bulkissue", copy / "bulkissue", ignore=shutil.ignore_patterns("__pycache__"))
    before = Path.cwd()
    os.chdir(copy)  # what a build front end does
    try:
        return [copy / "dist" / build(str(copy / "dist")) for build in (make_wheel, make_sdist)]
    finally:
        os.chdir(before)


def make_wheel(to):
    Path(to).mkdir(exist_ok=True)
    return buildapi.build_wheel(to)


def make_sdist(to):
    return buildapi.build_sdist(to)


def test_what_is_in_it(built):
    """Types, templates and scenarios are in the wheel; its metadata is valid, with a page that an index can show."""
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        told = archive.read(f"bulkissue-{__version__}.dist-info/METADATA")
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bulkissue").rglob("*") if path.is_file()}
    assert {name for name in sources if "__pycache__" not in name} <= names
    assert names >= SHIPPED
    metadata = Metadata.from_email(told, validate=True)
    assert (metadata.name, str(metadata.version)) == ("bulkissue", __version__)
    assert metadata.description_content_type == "text/markdown"
    assert set(metadata.provides_extra or ()) == {"xlsx", "notify", "metrics"}
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert inside >= {"pyproject.toml", "LICENSE", "README.md", *SHIPPED}


def test_installed_from_the_wheel(built, tmp_path):
    """Installed into an environment of its own, the command rehearses an example."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    pip = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", built[0]], check=True)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copytree(ROOT / "sample_inputs", tmp_path / "sample_inputs")
    # Its dependencies are those of this environment; bulkissue itself is not found there, but by a file for `site`.
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": sysconfig.get_path("purelib")}
    where = [place / "bin" / "python", "-c", "import bulkissue; print(bulkissue.__file__)"]
    found = subprocess.run(where, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(place))
    command = [place / "bin" / "bulkissue", "run", "jobs/earn.toml", "--sandbox", "--sandbox-faults", "bad-night"]
    ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode in {5, 6}, ended.stderr
    assert list(tmp_path.glob("runs/*/report.html"))


def test_the_container_file():
    """Nobody is root, nothing needs a shell, what is copied is there, and what is installed is pinned."""
    text = CONTAINERFILE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = {line.split()[0] for line in lines}
    assert words == {"FROM", "ENV", "WORKDIR", "RUN", "COPY", "VOLUME", "USER", "ENTRYPOINT", "CMD"}
    assert all(line.split(maxsplit=1)[1].startswith("[") for line in lines if line.startswith(("RUN", "ENTRY", "CMD")))
    user = [line.split()[1] for line in lines if line.startswith("USER")]
    assert [re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", one) is not None for one in user] == [True]
    copied = [name for line in lines if line.startswith("COPY") and "--from" not in line for name in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert "--require-hashes" in text


def test_what_the_container_installs():
    """Its lock pins what the program needs, with all extras and nothing else, at the versions that the tests had."""
    whole, own = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))
        for path in (ROOT / "requirements.lock", ROOT / "packaging" / "requirements.lock")
    )
    assert own.items() <= whole.items()
    assert own.keys() >= {"polars", "httpx", "fastexcel", "apprise", "prometheus-client"}
    assert not own.keys() & {"pytest", "mypy", "hypothesis"}


def test_an_odd_machine(tmp_path, service, write_input, write_job):
    """No HOME, no folder for passing files, umask 0, locale C: it runs, and nothing is for the eyes of others."""
    write_input(["mobile", "name"], [(mobile, "Zoë") for (mobile,) in MOBILES[:5]])
    write_job(service.base_url)
    environ = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C",
        "TMPDIR": str(tmp_path / "no-such-folder"),
        "BULKISSUE_CLIENT_KEY": "key",
        "BULKISSUE_CLIENT_SECRET": "secret",
    }
    command = [sys.executable, "-m", "bulkissue", "run", "job.toml", "--yes"]
    ended = subprocess.run(
        command, env=environ, cwd=tmp_path, umask=0, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert ended.returncode == 0, ended.stderr
    assert len(service.issued()) == 5
    for folder in ("runs", "state"):
        for path in (tmp_path / folder, *(tmp_path / folder).rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
