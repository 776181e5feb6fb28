"""Secrets: where they come from, where they must not stand, and that none is ever shown."""

import dataclasses
import os
from pathlib import Path

import pytest
import tomli_w
from jobfiles import EARN, SECRET, Write, problems_of, writer

from bulkissue.errors import JobRefused, SettingsRefused
from bulkissue.job import loading
from bulkissue.job.credentials import SECRET_VARIABLES, read_credentials


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


@pytest.mark.parametrize("table", ["", "[api]", "[api.auth]", "[input.columns]", "[api.auth.basic]", "[whatever]"])
@pytest.mark.parametrize(
    "name", ["client_secret", "client_key", "client-key", "PASSWORD", "username", "token", "api_key", "key", "passwd"]
)
def test_secret_in_the_file(write: Write, table: str, name: str) -> None:
    """A key that looks like a secret is refused wherever it stands, its value unseen, with the variables to use."""
    head = tomli_w.dumps(EARN) if table else ""
    tail = "" if table else tomli_w.dumps(EARN)
    head = head.replace("[api]\n", "[api.limits]\n[api]\n") if table == "[api]" else head
    table = "" if table == "[api]" else table
    path = write(f'{head}\n{table}\n{name} = "{SECRET}"\n{tail}')
    with pytest.raises(JobRefused) as refused:
        loading.load(path, environ={})
    assert SECRET not in str(refused.value)
    assert any(f"{name}: looks like a secret" in problem for problem in refused.value.problems)
    assert "BULKISSUE_CLIENT_SECRET" in str(refused.value.hint)


def test_known_names_are_no_secrets(write: Write) -> None:
    """token_header and token_prefix are settings, and are pointed home where they stand wrong."""
    assert loading.load(write(api__auth__token_prefix="Bearer "), environ={})
    (problem,) = problems_of(write(api__token_prefix=SECRET))
    assert problem == "api.token_prefix: is not a key of [api]; did you mean api.auth.token_prefix?"


@pytest.mark.parametrize("method", ["oauth", "basic"])
def test_credentials(write: Write, tmp_path: Path, method: str) -> None:
    """Secrets come from variables or files, one line break at the end taken off, and no repr shows them."""
    job = loading.load(write(api__auth__method=method), environ={}).job
    name, secret = SECRET_VARIABLES[method]
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    for ending in (b"", b"\n", b"\r\n"):
        file.write_bytes(SECRET.encode() + ending)
        found = read_credentials(job, {name: "me-myself", f"{secret}_FILE": str(file)})
        assert (found.method, found.name, found.secret) == (method, "me-myself", SECRET)
        assert found.warnings == ()
        assert SECRET not in repr(found)
        assert "me-myself" not in repr(found)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(found, "secret", "")  # noqa: B010 - mypy knows it is frozen


def test_credentials_keep_spaces(write: Write, tmp_path: Path) -> None:
    """A secret is taken as it stands, spaces and signs included; of a file's two line breaks one is too many."""
    job = loading.load(write(), environ={}).job
    environ = {"BULKISSUE_CLIENT_KEY": " k ", "BULKISSUE_CLIENT_SECRET": "pä ss"}
    assert dataclasses.astuple(read_credentials(job, environ))[1:3] == (" k ", "pä ss")
    file = tmp_path / "secret"
    file.write_text("s \n")
    environ = {"BULKISSUE_CLIENT_KEY": "k", "BULKISSUE_CLIENT_SECRET_FILE": str(file)}
    assert read_credentials(job, environ).secret == "s "
    file.write_text("s\n\n")
    with pytest.raises(SettingsRefused, match="line break"):
        read_credentials(job, environ)


def test_secret_file_open_to_all(write: Write, tmp_path: Path) -> None:
    """A secret file that everybody can read is a warning that names the variable, not the file."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o644)
    job = loading.load(write(), environ={}).job
    environ = {"BULKISSUE_CLIENT_KEY": "k", "BULKISSUE_CLIENT_SECRET_FILE": str(file)}
    (warning,) = read_credentials(job, environ).warnings
    assert "BULKISSUE_CLIENT_SECRET_FILE" in warning
    assert str(file) not in warning


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, ["BULKISSUE_CLIENT_KEY is not set", "BULKISSUE_CLIENT_SECRET is not set"]),
        ({"BULKISSUE_CLIENT_SECRET": ""}, ["BULKISSUE_CLIENT_SECRET gives an empty value"]),
        ({"BULKISSUE_CLIENT_SECRET": f"{SECRET}\nx"}, ["BULKISSUE_CLIENT_SECRET gives a value with a line break"]),
        ({"BULKISSUE_CLIENT_SECRET": f"{SECRET}\udcff"}, ["BULKISSUE_CLIENT_SECRET gives a value with"]),
        ({"BULKISSUE_CLIENT_SECRET": SECRET, "BULKISSUE_CLIENT_SECRET_FILE": "x"}, ["are both set; keep one"]),
        ({"BULKISSUE_CLIENT_SECRET_FILE": f"/{SECRET}"}, ["BULKISSUE_CLIENT_SECRET_FILE names a file that cannot"]),
        ({"BULKISSUE_CLIENT_SECRET_FILE": ""}, ["BULKISSUE_CLIENT_SECRET_FILE names a file that cannot"]),
        ({"BULKISSUE_CLIENT_SECRET_FILE": "a\0b"}, ["BULKISSUE_CLIENT_SECRET_FILE names a file that cannot"]),
        ({"BULKISSUE_CLIENT_SECRET_FILE": os.devnull}, ["BULKISSUE_CLIENT_SECRET_FILE gives an empty value"]),
        ({"BULKISSUE_USERNAME": "u", "BULKISSUE_PASSWORD": SECRET}, ["BULKISSUE_CLIENT_KEY is not set"]),
    ],
)
def test_credentials_refused(write: Write, environ: dict[str, str], said: list[str]) -> None:
    """A missing, empty, doubled or unreadable secret is refused by its variable's name, with what is needed."""
    job = loading.load(write(), environ={}).job
    with pytest.raises(SettingsRefused) as refused:
        read_credentials(job, environ)
    assert all(text in str(refused.value) for text in said)
    assert SECRET not in str(refused.value)
    assert "BULKISSUE_CLIENT_KEY and BULKISSUE_CLIENT_SECRET" in str(refused.value.hint)
