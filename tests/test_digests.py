"""What the state folder remembers of customers: digests, and one mobile with and without its country code."""

import csv

import polars as pl
import pytest
from scene import MOBILES, Scene

from bulkissue.outcomes import KNOWN_BY
from bulkissue.state import history
from bulkissue.state.register import registered_run

NATIONAL = [f"998600{number:04}" for number in range(20)]
FULL = [f"91{number}" for number in NATIONAL]
INDIA = {"country_code": "91"}


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """Files of national and of full numbers, and of both kinds of job."""
    write_input(["mobile"], [(one,) for one in NATIONAL], "national.csv")
    write_input(["mobile"], [(one,) for one in FULL], "full.csv")
    write_job(service.base_url, name="bare.toml")
    write_job(service.base_url, name="india.toml", identifiers=INDIA)
    return Scene(tmp_path, service)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("bare.toml", "national.csv"), ("india.toml", "full.csv")),
        (("bare.toml", "national.csv"), ("india.toml", "national.csv")),
        (("india.toml", "national.csv"), ("bare.toml", "national.csv")),
        (("india.toml", "national.csv"), ("bare.toml", "full.csv")),
        (("bare.toml", "full.csv"), ("india.toml", "national.csv")),
    ],
)
def test_a_country_code_added_or_left_out(scene, first, second):
    """A number that equals a remembered one but for a country code is that customer."""
    assert scene.run(job=first[0], path=first[1]).counts == {"rows": 20, "succeeded": 20}
    again = scene.run(job=second[0], path=second[1])
    assert again.counts == {"rows": 20, "already_issued": 20}, again.err
    asked = scene.do("history", second[0], "--identifier", NATIONAL[3] if "nat" in second[1] else FULL[3], "--json")
    assert [line["source_row"] for line in asked.json["issued"]] == [4]
    assert len(scene.service.issued()) == 20


@pytest.mark.parametrize("files", [("national.csv", "full.csv"), ("full.csv", "national.csv")])
def test_no_country_code_at_all(scene, files):
    """Where nothing says what the digits in front are, the number is rejected and not guessed."""
    assert scene.run(job="bare.toml", path=files[0]).counts == {"rows": 20, "succeeded": 20}
    second = scene.run(job="bare.toml", path=files[1])
    assert second.json["reasons"] == {"validate.mobile_ambiguous": 20}
    assert len(scene.service.issued()) == 20


def test_another_country(scene, write_input):
    """Equal ends under different codes are different customers."""
    assert scene.run(job="india.toml", path="full.csv").counts == {"rows": 20, "succeeded": 20}
    write_input(["mobile"], [(f"+44{one}",) for one in NATIONAL], "uk.csv")
    assert scene.run(job="india.toml", path="uk.csv").counts == {"rows": 20, "succeeded": 20}


def test_a_mobile_that_stood_beside(scene, write_input, write_job):
    """A remembered mobile beside an id counts as one that was sent."""
    write_input(["ref", "mobile"], [(f"C{n:03}", one) for n, one in enumerate(NATIONAL)], "wide.csv")
    wide = {"columns": {"external_id": "ref", "mobile": "mobile"}}
    write_job(scene.service.base_url, name="wide.toml", input=wide, identifiers={"prefer": ["external_id", "mobile"]})
    assert scene.run(job="wide.toml", path="wide.csv").counts == {"rows": 20, "succeeded": 20}
    assert scene.run(job="india.toml", path="full.csv").counts == {"rows": 20, "already_issued": 20}


def test_a_run_that_is_resumed(scene):
    """What another run issued meanwhile under the other form leaves its batch."""
    scene.run(crash_at="run.registered", job="bare.toml", path="national.csv")
    killed = scene.run_dir()
    assert scene.run(job="india.toml", path="full.csv").counts == {"rows": 20, "succeeded": 20}
    assert scene.resume(killed).counts == {"rows": 20, "already_issued": 20}
    assert len(scene.service.issued()) == 20


# Digests


def files_of(scene):
    return sorted((scene.folder / "state").rglob("history/*.parquet"))


def test_no_identifier_is_kept(scene, write_input):
    """Neither as a value nor in the bytes of any file of the state folder."""
    write_input(["mobile", "email"], [(one, f"who{one}@ex.com") for one in FULL], "wide.csv")
    assert scene.run(job="india.toml", path="wide.csv").counts == {"rows": 20, "succeeded": 20}
    [file] = files_of(scene)
    lines = pl.read_parquet(file)
    assert lines.schema == history.HISTORY_SCHEMA
    text = lines.select(pl.col(pl.String)).write_csv()
    for path in (scene.folder / "state").rglob("*"):
        text += path.read_bytes().decode("latin-1") if path.is_file() else ""
        assert path.stat().st_mode & 0o077 == 0
    assert not [one for one in NATIONAL if one in text]
    assert "ex.com" not in text


def test_digests_are_hmac_sha256():
    """As the standard library makes them, so that anyone can check one; they differ by type, and by key."""
    digests = history.Digests("0f" * 32)
    keys = pl.DataFrame({"kind": ["mobile", "email", "id"], "key": ["919986000586", "é@x.com", None]})
    found = keys.select(digests.of(pl.col("kind"), pl.col("key")).alias("digest"))["digest"].to_list()
    assert found == [digests.of_text("mobile", "919986000586"), digests.of_text("email", "é@x.com"), None]
    assert digests.of_text("id", "919986000586") != found[0] != history.Digests("1f" * 32).of_text("mobile", "1")


def test_the_key_is_gone(scene):
    """Without its key a history can find nobody: nothing is sent until it is back."""
    assert scene.run(job="bare.toml", path="full.csv").code == 0
    key = scene.folder / "state" / "key"
    key.rename(scene.folder / "kept")
    refused = scene.run(job="bare.toml", path="full.csv")
    assert refused.code == 3
    assert "restore it from a backup" in refused.err
    (scene.folder / "kept").rename(key)
    assert scene.run(job="bare.toml", path="full.csv").counts == {"rows": 20, "already_issued": 20}


def as_an_early_version(scene):
    """Turn the state folder into one that was written without digests, identity and count."""
    for file in files_of(scene):
        run = file.stem
        with (scene.runs_dir / run / "success.csv").open() as ledger:
            rows = list(csv.DictReader(ledger))
        told = pl.DataFrame(
            [
                {
                    "identifier_type": row["_bi_identifier_type"],
                    "compare_key": row["_bi_identifier"],
                    "outcome": "succeeded",
                    "run": run,
                    "source_file": row["_bi_source_file"],
                    "source_row": int(row["_bi_row"]),
                    "customer_id": row["_bi_customer_id"],
                    "reference": row["_bi_reference"],
                    "answered_at": row["_bi_answered_at"],
                }
                for row in rows
            ]
        )
        early = [name for name in history.RUN_SCHEMA if name not in {*KNOWN_BY.values(), "country_code"}]
        told.select(
            pl.col(name).cast(history.RUN_SCHEMA[name]) for name in early if name in told.columns
        ).write_parquet(file)
    state = scene.folder / "state"
    (state / "state.json").write_text('{"format": 1, "began_ms": 0}')
    for name in ("key", "begun"):
        (state / name).unlink()
    for entry in state.rglob("runs/*.json"):
        entry.write_text(entry.read_text().replace('"history_file"', '"was"').replace('"number"', '"old"'))


def test_history_of_an_early_version(scene, write_input):
    """It is read on, and its identifiers are gone with the next run, also where that is killed in the middle."""
    assert scene.run(job="bare.toml", path="full.csv").code == 0
    write_input(["mobile"], MOBILES[100:105], "more.csv")
    assert scene.run(job="bare.toml", path="more.csv").code == 0
    as_an_early_version(scene)
    assert registered_run(scene.folder / "state", scene.run_dir().name) is not None
    scene.run(job="india.toml", path="national.csv", crash_at="history.digested")
    kinds = ["key" in pl.read_parquet_schema(file) for file in files_of(scene)]
    assert sorted(kinds) == [False, True]
    again = scene.run(job="india.toml", path="national.csv")
    assert again.counts == {"rows": 20, "already_issued": 20}, again.err
    assert scene.run(job="bare.toml", path="more.csv").counts == {"rows": 5, "already_issued": 5}
    assert all("key" in pl.read_parquet_schema(file) for file in files_of(scene))
    assert len(scene.service.issued()) == 25


def test_the_key_is_not_shown():
    """What a traceback or a log would print of the digests has no key in it."""
    assert "5ecret" not in repr(history.Digests("5ecret"))
