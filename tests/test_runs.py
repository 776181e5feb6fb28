"""Whole runs against the stand-in service, its books the judge."""

import csv
import json
import os
import random
import subprocess
import sys

import pytest
from conftest import ENVIRON, hold_against_books, read_ledger, read_ledgers

from bulkissue.sandbox import Fault

MOBILES = [f"9199860{number:05}" for number in range(250)]


@pytest.mark.parametrize("action", ["enrol", "earn", "issue", "cart", "coupon"])
def test_every_action(action, service, write_job, write_input, command):
    """Each action issues every row once and names each row's own proof."""
    write_input(["Customer ID", "name"], [(str(550_000_000 + n), f"n{n}") for n in range(120)])
    ended = command("run", write_job(service.base_url, action), "--yes", "--json")
    assert (ended.code, ended.counts) == (0, {"rows": 120, "succeeded": 120}), ended.err
    hold_against_books(ended.run_dir, service.issued(), effect={"issue": "earn"}.get(action, action))


@pytest.mark.parametrize("action", ["earn", "issue", "coupon"])
def test_every_identifier_type(action, service, write_job, write_input, command):
    """A file with all four identifier types is sent over the routes that carry them."""
    rows = [("id", str(5000 + n)) for n in range(30)]
    rows += [("mobile", mobile) for mobile in MOBILES[:30]]
    rows += [("email", f"C{n}@example.com") for n in range(30)]
    rows += [("external_id", f"000{n}") for n in range(30)]
    random.Random(1).shuffle(rows)
    write_input(["type", "value"], rows)
    ended = command("run", write_job(service.base_url, action), "--yes", "--json")
    assert (ended.code, ended.counts) == (0, {"rows": 120, "succeeded": 120}), ended.err
    hold_against_books(ended.run_dir, service.issued(), effect={"issue": "earn"}.get(action, action))


def test_columns_that_are_not_used(service, write_job, write_input, command):
    """A column that was taken for nothing is named, so that a channel under a foreign name does not go by unseen."""
    write_input(["mobile", "Kanal", "note"], [(MOBILES[0], "INSTORE", "x")])
    ended = command("run", write_job(service.base_url, identifiers={"default_source": "INSTORE"}), "--yes")
    assert ended.code == 0, ended.err
    assert "Kept, and not used: “Kanal”, “note”" in ended.err


def test_a_messy_file(service, write_job, write_input, command):
    """Every row of a messy file ends in one ledger, its own columns unchanged."""
    rows = [
        ("+91 99860 00586", "Asha, née B", "INSTORE"),
        ("919986000586", "again", "instore"),
        ("9.19986E+11", "excel", "INSTORE"),
        ("", "nobody", "INSTORE"),
        ("919986000587", 'a "quoted"\nname', "INSTORE"),
        ("919986000588", "x", "INSTORE"),
        ("919986000588", "x", "WEBSITE"),
        ("919986000589", "no such source", "NOWHERE"),
    ]
    write_input(["Mobile No.", "source_name", "Channel"], rows)
    ended = command("run", write_job(service.base_url), "--yes", "--json")
    assert ended.code == 5, ended.err
    assert ended.counts == {"rows": 8, "succeeded": 2, "rejected": 5, "duplicate": 1}
    found = read_ledgers(ended.run_dir)
    assert [found["input.csv", n]["source_name"] for n in range(1, 9)] == [row[1] for row in rows]
    reasons = [found["input.csv", n]["_bi_reason"] for n in range(1, 9)]
    assert reasons == [
        "answer.proof",
        "dedupe.same_identifier",
        "validate.mobile_scientific",
        "validate.identifier_missing",
        "answer.proof",
        "dedupe.conflict",
        "dedupe.conflict",
        "validate.source_unknown",
    ]
    assert "input.csv row 7" in found["input.csv", 6]["_bi_message"]
    hold_against_books(ended.run_dir, service.issued(), effect="earn")


def test_the_same_file_again(service, write_job, write_input, command, tmp_path):
    """A renamed copy of the file is held by history; an occasion issues it once more."""
    write_input(["mobile"], [(mobile,) for mobile in MOBILES])
    job = write_job(service.base_url)
    assert command("run", job, "--yes", "--json").counts == {"rows": 250, "succeeded": 250}
    (tmp_path / "input.csv").rename(tmp_path / "copy.csv")
    again = command("run", job, "--input", "copy.csv", "--yes", "--json")
    assert (again.code, again.counts) == (0, {"rows": 250, "already_issued": 250})
    assert again.json["requests"] == 0
    assert again.json["warnings"]
    once_more = command("run", job, "--input", "copy.csv", "--yes", "--json", "--occasion", "2026-11")
    assert once_more.counts == {"rows": 250, "succeeded": 250}


def test_no_terminal_and_no_consent(service, write_job, write_input, command):
    """Where nobody can be asked, a run without --yes is refused and sends nothing."""
    write_input(["mobile"], [(MOBILES[0],)])
    ended = command("run", write_job(service.base_url), "--json")
    assert (ended.code, ended.json["state"]) == (3, None)
    assert "--yes" in ended.json["error"]["hint"]
    assert not service.issued()


def test_lost_answers(service, write_job, write_input, command):
    """A lost answer leaves its rows unknown, exit 6, and never sent again."""
    write_input(["mobile"], [(mobile,) for mobile in MOBILES])
    service.order(Fault(name="lost", kind="drop", when="after", nth=(2,), route="bulk"))
    job = write_job(service.base_url)
    ended = command("run", job, "--yes", "--json")
    assert (ended.code, ended.counts) == (6, {"rows": 250, "succeeded": 150, "unknown": 100}), ended.err
    hold_against_books(ended.run_dir, service.issued(), effect="earn")
    again = command("run", job, "--yes", "--json")
    assert again.counts == {"rows": 250, "already_issued": 250}
    assert len(service.issued()) == 250


def test_refused_credentials(service, write_job, write_input, command):
    """Wrong credentials end with exit 3 and nothing sent."""
    write_input(["mobile"], [(mobile,) for mobile in MOBILES])
    ended = command("run", write_job(service.base_url), "--yes", "--json", environ={"BULKISSUE_CLIENT_SECRET": "wrong"})
    assert (ended.code, ended.counts) == (3, {"rows": 250, "not_attempted": 250})
    assert not service.issued()


def test_a_code_every_row_would_meet(service, write_job, write_input, command):
    """A refusal of the promotion itself stops the run at once: one request, the rest not attempted."""
    write_input(["mobile"], [(mobile,) for mobile in MOBILES])
    service.order(Fault(kind="status", status=400, body='{"errors": [{"code": 8892, "message": "not active"}]}'))
    ended = command("run", write_job(service.base_url), "--yes", "--json")
    assert (ended.code, ended.counts) == (7, {"rows": 250, "failed": 100, "not_attempted": 150})
    assert (ended.json["stop"]["reason"], ended.json["attempts"]) == ("guard.refusal", 1)


def test_rows_that_could_not_be_read_are_not_sent_later(service, write_job, command, tmp_path):
    """A line that falls apart into other columns names somebody else: a retry refuses it too, until it is mended."""
    (tmp_path / "input.csv").write_text('Amount,Customer ID\n12,555900001\n1,250,555900002\n14,"x"y\n')
    job = write_job(service.base_url)
    first = command("run", job, "--yes", "--json")
    assert first.counts == {"rows": 3, "succeeded": 1, "rejected": 2}
    again = command("retry", "latest", "--yes", "--json")
    assert (again.code, again.counts, again.json["reasons"]) == (5, {"rows": 2, "rejected": 2}, first.json["reasons"])
    failed = read_ledger(again.run_dir, "failure")
    failed[0] |= {"Amount": "1250", "Customer ID": "555900002", "_bi_reason": ""}
    with (tmp_path / "mended.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, failed[0])
        writer.writeheader()
        writer.writerows(failed)
    mended = command("run", job, "--input", "mended.csv", "--yes", "--json")
    assert mended.counts == {"rows": 2, "succeeded": 1, "rejected": 1}
    assert sorted(one["identifier"] for one in service.issued()) == ["555900001", "555900002"]


def test_no_column_that_is_preferred(service, write_job, write_input, command):
    """A file none of whose columns may be used is refused, rather than each of its rows."""
    write_input(["Mobile", "Email"], [(MOBILES[0], "a@example.com")])
    job = write_job(service.base_url, identifiers={"prefer": ["id", "external_id"]})
    refused = command("run", job, "--yes", "--json")
    assert (refused.code, refused.json["error"]["hint"]) == (4, "add mobile or email to prefer")
    assert "input.csv has no column for id or external_id" in refused.json["error"]["message"]


def test_dry_run(service, write_job, write_input, command, tmp_path):
    """A dry run sends nothing, makes no run folder, and writes what would not be sent where it is told."""
    write_input(["mobile"], [(mobile,) for mobile in (*MOBILES, "12", MOBILES[0])])
    ended = command("run", write_job(service.base_url), "--dry-run", "--out", tmp_path / "out", "--json")
    assert ended.json["to_send"] == 250
    assert ended.json["requests"] == 3
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "state").exists()
    assert [row["_bi_reason"] for row in read_ledger(tmp_path / "out", "failure")] == ["validate.mobile_length"]
    assert [row["_bi_reason"] for row in read_ledger(tmp_path / "out", "duplicate")] == ["dedupe.same_identifier"]
    assert not service.stats()["requests_total"]
    quiet = command("run", tmp_path / "job.toml", "--dry-run", "--quiet")
    assert quiet.out == ("dry run: 250 of 252 rows to send in 3 requests (250 by mobile); 1 rejected, 1 duplicate\n")


def test_limit_and_expected_rows(service, write_job, write_input, command):
    """--limit sends the first rows only; --expect-rows refuses another number of rows."""
    write_input(["mobile"], [(mobile,) for mobile in MOBILES])
    job = write_job(service.base_url)
    refused = command("run", job, "--yes", "--json", "--expect-rows", "249")
    assert refused.code == 4
    ended = command("run", job, "--yes", "--json", "--limit", "7", "--expect-rows", "250")
    assert (ended.code, ended.counts) == (0, {"rows": 250, "succeeded": 7, "not_attempted": 243})
    assert len(service.issued()) == 7
    rest = command("retry", ended.json["run_id"], "--yes", "--json")
    assert (rest.code, rest.counts) == (0, {"rows": 243, "succeeded": 243}), rest.err
    assert rest.json["parent_run_id"] == ended.json["run_id"]
    assert set(read_ledgers(rest.run_dir)) == {("input.csv", n) for n in range(8, 251)}
    hold_against_books(rest.run_dir, service.issued(), effect="earn")


@pytest.mark.parametrize("again", ["resume", "retry"])
def test_another_state_folder(again, service, write_job, write_input, command):
    """A run goes on, and is retried, only with the state folder it began with."""
    write_input(["mobile"], [(MOBILES[0],), ("not a number",)])
    ended = command("run", write_job(service.base_url), "--yes", "--json")
    assert ended.counts == {"rows": 2, "succeeded": 1, "rejected": 1}, ended.err
    folder = ended.run_dir.parent.parent
    refused = command(again, ended.run_dir, "--yes", "--json", environ={"BULKISSUE_STATE_DIR": str(folder / "other")})
    assert (refused.code, refused.json["error"]["hint"]) == (3, "unset BULKISSUE_STATE_DIR")
    (folder / "state").rename(folder / "moved")
    (folder / "state").symlink_to(folder / "moved")
    assert command(again, ended.run_dir, "--yes", "--json").code == 5


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves(stream, service, write_job, write_input, tmp_path):
    """Where nobody takes the output any more, the run goes on and its exit code is its own."""
    write_input(["mobile"], [(mobile,) for mobile in (*MOBILES, "12")])
    job = write_job(service.base_url)
    reading, writing = os.pipe()
    os.close(reading)
    out, err = (writing, subprocess.DEVNULL) if stream == "stdout" else (subprocess.DEVNULL, writing)
    command = [sys.executable, "-m", "bulkissue", "run", str(job), "--yes"]
    environ = {**os.environ, **ENVIRON}
    ended = subprocess.run(command, cwd=tmp_path, env=environ, timeout=60, check=False, stdout=out, stderr=err)
    os.close(writing)
    assert ended.returncode == 5
    (folder,) = (tmp_path / "runs").iterdir()
    hold_against_books(folder, service.issued(), effect="earn")


def test_a_rehearsal_and_real_secrets(command, write_job, write_input, tmp_path):
    """A rehearsal neither needs nor reads real secrets, whichever way they are given, nor trips over them."""
    write_input(["mobile"], [("919986000586",)])
    write_job("http://127.0.0.1:9")
    environ = {"BULKISSUE_CLIENT_KEY_FILE": "nowhere", "BULKISSUE_CLIENT_SECRET_FILE": str(tmp_path / "missing")}
    ended = command("run", "job.toml", "--sandbox", "--yes", "--json", environ=environ)
    assert ended.code == 0, ended.err


def test_log_lines_say_their_run(command, service, write_job, write_input):
    """Every line of a run's log names the run and the job."""
    write_input(["mobile"], [("919986000586",), ("919986000587",)])
    write_job(service.base_url)
    ended = command("run", "job.toml", "--yes", "--json")
    lines = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines] == ["run.started", "run.finished"]
    assert {(line["run_id"], line["job"]) for line in lines} == {(ended.json["run_id"], "test")}


def test_a_secret_that_others_can_read(command, service, write_job, write_input, tmp_path):
    """A secret's file that everybody on the machine can read is spoken of, without its path or content."""
    write_input(["mobile"], [("919986000586",)])
    write_job(service.base_url)
    secret = tmp_path / "key"
    secret.write_text(ENVIRON["BULKISSUE_CLIENT_SECRET"])
    secret.chmod(0o644)
    given = {"BULKISSUE_CLIENT_SECRET": None, "BULKISSUE_CLIENT_SECRET_FILE": str(secret)}
    ended = command("run", "job.toml", "--yes", environ=given)
    assert ended.code == 0, ended.err
    assert "everybody on this machine can read the file that BULKISSUE_CLIENT_SECRET_FILE names" in ended.err
    assert str(secret) not in ended.err
