"""A job file's environments, and variables in names and paths."""

from datetime import date

import pytest
from conftest import ENVIRON
from scene import MOBILES, Scene

from bulkissue.errors import JobRefused
from bulkissue.job.loading import load

TEXT = """
config_version = 1
[job]
name = "{name}"
action = "earn"
occasion = "{occasion}"
[target]
program_id = 1
promotion_id = 2
[input]
paths = ["{path}"]
[identifiers]
default_source = "INSTORE"
[api]
base_url = "https://eu.api.example.com"
[api.limits]
requests_per_minute = 1000
batch_size = 50
[environments.staging]
base_url = "https://staging.example.com"
[environments.staging.limits]
requests_per_minute = 100
[environments.production]
auth = {{ method = "basic" }}
"""


@pytest.fixture
def write(tmp_path):
    def write_job(name="j", occasion="", path="in.csv", more=""):
        file = tmp_path / "job.toml"
        file.write_text(TEXT.format(name=name, occasion=occasion, path=path) + more)
        return file

    return write_job


def said(path, environment=None, **environ):
    with pytest.raises(JobRefused) as caught:
        load(path, environ=environ, environment=environment)
    return str(caught.value)


def test_an_environment_goes_over_the_api(write):
    """Its keys beat those of `[api]`, its name is the target's environment, and the rest stays."""
    usual = load(write(), environ={}).job
    assert (usual.api.host, usual.api.environment) == ("eu.api.example.com", None)
    staging = load(write(), environ={}, environment="staging").job.api
    assert (staging.base_url, staging.environment) == ("https://staging.example.com", "staging")
    assert (staging.limits.requests_per_minute, staging.limits.batch_size) == (100, 50)
    production = load(write(), environ={}, environment="production").job.api
    assert (production.auth.method, production.environment) == ("basic", "production")
    beaten = load(write(), environ={"BULKISSUE_BASE_URL": "https://x.example.com"}, environment="staging").job.api
    assert beaten.base_url == "https://x.example.com"


def test_environments_that_will_not_do(write):
    """An unknown one, one that is no table, and a wrong key are refused by name."""
    assert "has no live; there are staging, production" in said(write(), "live")
    assert "base_ur" in said(write(more='[environments.live]\nbase_ur = "x"\n'), "live")
    assert "looks like a secret" in said(write(more='[environments.live]\nclient_secret = "x"\n'))


def test_variables_and_the_date(write, tmp_path):
    """They are put into the name, the occasion and paths."""
    file = write(name="${BRAND} daily", occasion="${date}", path="inbox/${BRAND}-${date}.csv")
    job = load(file, environ={"BRAND": "acme"}).job
    today = date.today().isoformat()  # noqa: DTZ011 - as the person who reads it has it
    assert (job.job.name, job.job.occasion) == ("acme daily", today)
    assert job.input.paths == [str(tmp_path / f"inbox/acme-{today}.csv")]


@pytest.mark.parametrize(
    ("parts", "environ", "problem"),
    [
        ({"name": "${BRAND}"}, {}, "job.name: ${BRAND} is not set in the environment"),
        ({"path": "${BRAND}.csv"}, {"BRAND": ""}, "input.paths: ${BRAND} is not set in the environment"),
        ({"name": "${BULKISSUE_CLIENT_SECRET}"}, ENVIRON, "is a secret"),
        ({"more": '[input.columns]\nmobile = "${COLUMN}"\n'}, {"COLUMN": "M"}, "is understood in job.name"),
    ],
)
def test_variables_that_will_not_do(write, parts, environ, problem):
    """One that is not set, a secret, and any other place are refused."""
    found = said(write(**parts), **environ)
    assert problem in found
    assert "secret" not in found.replace("is a secret", "").replace("SECRET", "")


def test_where_it_goes_is_shown(tmp_path, service, write_input, write_job):
    """Before anything is sent the environment and its address are said."""
    write_input(["mobile"], MOBILES[:2])
    write_job("https://eu.api.example.com", environments={"staging": {"base_url": service.base_url}})
    scene = Scene(tmp_path, service)
    ended = scene.do("run", "job.toml", "--yes", "--environment", "staging")
    assert f"Environment staging: {service.base_url}" in ended.err
    assert len(service.issued()) == 2
    assert "staging/earn" in (scene.run_dir() / "run.json").read_text()
    assert scene.do("retry", "latest", "--yes").code == 0
    history = scene.do("history", "job.toml", "--environment", "staging", "--identifier", MOBILES[0][0], "--json")
    assert len(history.json["issued"]) == 1
    assert scene.do("check", "job.toml", "--environment", "nowhere").code == 3
