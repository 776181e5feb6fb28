"""Jobs: what is refused and how it is said, what is taken, and in which form it is kept."""

import json
from pathlib import Path
from typing import get_args

import pytest
from jobfiles import SECRET, Write, problems_of, writer

from bulkissue.job import loading
from bulkissue.job.model import SETTINGS, Source, json_schema
from bulkissue.service import bulk, single


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("config_version", 2, "2 is not a version this program reads; it reads 1"),
        ("job__name", "", "must not be empty"),
        ("job__name", 5, "5 is not text; put it in quotes"),
        ("job__occasion", "x" * 65, "is longer than 64 characters"),
        ("job__occasion", "a\tb", "has a character that cannot be printed"),
        ("job__occasion", "a ", '"a " begins or ends with a space'),
        ("job__occasion", "दीवाली" * 10, "is too long for the name of a folder"),
        ("target__promo_identifier", "x" * 241, "is too long for the name of a folder"),
        ("job__occasion", 2026, "2026 is not text; put it in quotes"),
        ("target__program_id", "469", '"469" is not a whole number; write it without quotes'),
        ("target__program_id", True, "true is not a whole number"),
        ("target__program_id", 0, "0 is not above 0"),
        ("target__program_id", 2**63, f"{2**63} is above 9,223,372,036,854,775,807"),
        ("target__promotion_id", True, "true is not a promotion's id"),
        ("target__promotion_id", -4, "-4 is not a promotion's id"),
        ("target__promotion_id", "69218", '"69218" is text; earn needs the number, without quotes'),
        ("target__promo_identifier", "DIWALI26 ", "begins or ends with a space"),
        ("target__context_id", "x", "earn does not use it; it is for cart"),
        ("input__paths", [""], "must not be empty"),
        ("input__paths", ["~/x.csv"], "begins with ~"),
        ("input__encoding", "utf-9", '"utf-9" is not a text encoding'),
        ("input__encoding", "rot13", '"rot13" is not a text encoding'),
        ("input__delimiter", "", "must be one ASCII character"),
        ("input__delimiter", ";;", "must be one ASCII character"),
        ("input__delimiter", "§", "must be one ASCII character"),
        ("input__delimiter", '"', "must be one ASCII character"),
        ("input__columns__mobile", "", "must not be empty"),
        ("identifiers__default_type", "phone", '"phone" is none of id, mobile, email, external_id'),
        ("identifiers__default_source", "INSTOR", "did you mean INSTORE?"),
        ("identifiers__country_code", "+91", "is not one to three digits without + or 00"),
        ("identifiers__country_code", 91, "91 is not text; put it in quotes"),
        ("identifiers__country_code", "91\n", "is not one to three digits"),
        ("identifiers__prefer", [], "must name at least one"),
        ("identifiers__prefer", ["id", "email", "id"], "names id twice"),
        ("identifiers__national_length", 15, "15 is above 14"),
        ("api__environment", "", "must not be empty"),
        ("api__auth__method", "oath", '"oath" is none of oauth, basic; did you mean oauth?'),
        ("api__auth__token_header", "X Token", "the value is not the name of an HTTP header"),
        ("api__auth__token_prefix", "Bearer\n", "the value must be printable ASCII"),
        ("api__attribution__entity_code", "é", "must be printable ASCII"),
        ("api__limits__concurrency", 257, "257 is above 256"),
        ("api__limits__batch_size", 101, "101 is above 100"),
        ("api__limits__read_timeout_seconds", True, "true is not a number"),
        ("api__limits__read_timeout_seconds", 0, "0 is not above 0"),
        ("api__limits__read_timeout_seconds", float("inf"), "inf is above 3,600"),
        ("api__limits__connect_timeout_seconds", float("nan"), "nan is above 3,600"),
        ("api__limits__requests_per_minute", 0, "0 is not above 0"),
        ("guards__max_failed_ratio", 1.5, "1.5 is above 1"),
        ("guards__canary_rows", 0, "0 is below 1"),
        ("reconcile__settle_after_seconds", -1, "-1 is below 0"),
        ("output__formats", ["ods"], '"ods" is none of csv, xlsx, parquet'),
        ("output__formats", [], "must name at least one"),
        ("output__state_dir", "~/state", "begins with ~"),
    ],
)
def test_refused_value(write: Write, key: str, value: object, said: str) -> None:
    """A value that will not do is one problem, under its dotted key, in plain words."""
    (problem,) = problems_of(write(**{key: value}))
    assert problem.startswith(f"{key.replace('__', '.')}: ")
    assert said in problem


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("guards__max_failed_ratio", 1, 1.0),
        ("api__limits__read_timeout_seconds", 30, 30.0),
        ("input__delimiter", "Tab", "\t"),
        ("input__delimiter", "\\t", "\t"),
        ("input__delimiter", "\t", "\t"),
        ("input__encoding", "windows-1252", "windows-1252"),
        ("identifiers__default_source", "instore", "INSTORE"),
        ("identifiers__default_source", "Mobile_App", "MOBILE_APP"),
        ("api__environment", "Production", "production"),
        ("api__auth__token_prefix", "Bearer ", "Bearer "),
        ("job__occasion", "e\u0301te\u0301", "été"),
    ],
)
def test_taken_value(write: Write, key: str, value: object, kept: object) -> None:
    """Values that mean the same are kept in one form."""
    job = loading.load(write(**{key: value}), environ={}).job
    for name in key.split("__"):
        job = getattr(job, name)
    assert job == kept


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://eu.api.example.com", "https://eu.api.example.com"),
        ("https://EU.api.example.com/", "https://eu.api.example.com"),
        ("https://gate.example.com:8443/loyalty//", "https://gate.example.com:8443/loyalty"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:1/x/", "http://localhost:1/x"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("HTTPS://eu.api.example.com", "https://eu.api.example.com"),
    ],
)
def test_base_url(write: Write, url: str, kept: object) -> None:
    """Both https anywhere and http on loopback are taken, in one spelling."""
    assert loading.load(write(api__base_url=url), environ={}).job.api.base_url == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "eu.api.example.com",
        "https://",
        "https:///v2",
        "ftp://eu.api.example.com",
        "http://eu.api.example.com",
        "http://128.0.0.1",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        f"https://u:{SECRET}@eu.api.example.com",
        f"https://{SECRET}@eu.api.example.com",
        "http://127.0.0.1@evil.example.com",
        f"https://eu.api.example.com?token={SECRET}",
        f"https://eu.api.example.com/#{SECRET}",
        "https://eu.api.example.com?",
        "https://eu.api.example.com/v2/promotion/bulk/enrolAndEarn",
        "https://gate.example.com/loyalty/api_gateway/v1/promotions/",
        "https://eu.api.example.com:99999",
        "https://eu.api.example.com:0",
        "https://eu.api.example.com:x",
        "https://eu.api.example.com.",
        "https://[::1",
        "https://eu.api.exämple.com",
        "https://eu.api.\nexample.com",
        " https://eu.api.example.com",
    ],
)
def test_refused_base_url(write: Write, url: str) -> None:
    """Whatever is no plain https URL is refused under its key, and what may be a secret in it is not shown."""
    (problem,) = problems_of(write(api__base_url=url))
    assert problem.startswith("api.base_url: ")


@pytest.mark.parametrize(
    ("action", "target"),
    [
        ("enrol", {"program_id": 1, "promotion_id": 2}),
        ("enrol", {"program_id": 1, "promo_identifier": "X"}),
        ("earn", {"program_id": 1, "promotion_id": 2, "promo_identifier": "X"}),
        ("issue", {"program_id": 1, "promotion_id": 2}),
        ("issue", {"program_id": 1, "promotion_id": 2, "promo_identifier": "X"}),
        ("cart", {"promotion_id": "65f1c2a4b7d8e90012ab34cd"}),
        ("cart", {"promotion_id": "a", "context_id": "c"}),
        ("coupon", {"series_id": 5}),
    ],
)
def test_whole_target(write: Write, action: str, target: dict[str, object]) -> None:
    """A target with what its action needs is taken."""
    assert loading.load(write(job__action=action, target=target), environ={}).job.job.action == action


@pytest.mark.parametrize(
    ("action", "target", "keys"),
    [
        ("enrol", {"program_id": 1}, ["promotion_id"]),
        ("earn", {}, ["program_id", "promotion_id"]),
        ("earn", {"program_id": 1, "promotion_id": "2"}, ["promotion_id"]),
        ("issue", {"program_id": 1, "promo_identifier": "X"}, ["promotion_id"]),
        ("cart", {}, ["promotion_id"]),
        ("cart", {"promotion_id": 5}, ["promotion_id"]),
        ("cart", {"promotion_id": "a/../b"}, ["promotion_id"]),
        ("cart", {"promotion_id": ".."}, ["promotion_id"]),
        ("cart", {"promotion_id": "a", "promo_identifier": "X"}, ["promo_identifier"]),
        ("coupon", {}, ["series_id"]),
        ("coupon", {"program_id": 1, "series_id": 5}, ["program_id"]),
        ("coupon", {"promotion_id": 5}, ["promotion_id", "series_id"]),
    ],
)
def test_target_that_does_not_fit(write: Write, action: str, target: dict[str, object], keys: list[str]) -> None:
    """What an action lacks or does not use is named, each key once."""
    found = problems_of(write(job__action=action, target=target))
    assert sorted(problem.partition(":")[0] for problem in found) == [f"target.{key}" for key in keys]


def test_attribution_is_for_oauth(write: Write) -> None:
    """Attribution with basic is refused under each of its keys."""
    attribution = {"entity_type": "TILL", "entity_code": "7"}
    found = problems_of(write(api__auth__method="basic", api__attribution=attribution))
    assert [problem.partition(":")[0] for problem in found] == [
        "api.attribution.entity_type",
        "api.attribution.entity_code",
    ]
    assert loading.load(write(api__attribution=attribution), environ={}).job.api.attribution.entity_code == "7"


def test_sources_are_those_of_the_routes() -> None:
    """The sources a job may name are those that the routes know."""
    assert set(get_args(Source)) == {*(bulk.SOURCES or ()), *(single.SOURCES or ())}


def test_job_is_frozen(write: Write) -> None:
    """A loaded job cannot be changed."""
    loaded = loading.load(write(), environ={})
    with pytest.raises(ValueError, match="frozen"):
        loaded.job.api.limits.concurrency = 5


def test_schema() -> None:
    """The schema is JSON, closed, knows every key, and describes it or its table."""
    schema = json.loads(json.dumps(json_schema()))
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["config_version", "job", "target", "api"]
    known = set(schema["properties"])
    for section in schema["$defs"].values():
        known |= set(section.get("properties", ()))
        assert section["description"]
        assert "\n" not in section["description"]
    assert {key.rpartition(".")[2] for key in SETTINGS} <= known


@pytest.mark.parametrize(
    ("mobile", "code", "said"),
    [
        ({"region": "IN"}, "91", "goes without"),
        ({"region": "ZZ"}, None, "no ISO country code"),
        ({"invalid": "warn"}, None, "means nothing without region"),
    ],
)
def test_a_region_and_a_country_code(write, mobile, code, said):
    """Two rules for the same numbers are one too many; a region that is none is refused."""
    identifiers = {"mobile": mobile} | ({"country_code": code} if code else {})
    (problem,) = problems_of(write(identifiers=identifiers))
    assert said in problem
