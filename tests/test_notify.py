"""Who is told how a run ended, and what Prometheus is told; what fails there changes nothing."""

import json
import os
import re
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scene import MOBILES, Scene

from bulkissue.commands.metrics import METRICS
from bulkissue.commands.notify import on_trouble
from bulkissue.job.loading import load
from bulkissue.sandbox import Fault

ROOT = Path(__file__).parent.parent


class Receiver(HTTPServer):
    """A webhook's other end: what was posted, and the status it answers with."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.status = 200
        self.received = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook?key=hid7den"


class Handler(BaseHTTPRequestHandler):
    """Takes a POST."""

    server: Receiver

    def do_POST(self):
        """Keep what comes."""
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def receiver():
    """A webhook's other end."""
    server = Receiver(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def scene(tmp_path, service, write_input):
    write_input(["mobile"], MOBILES[:6])
    return Scene(tmp_path, service)


def writer(scene):
    """A command that writes what it is told, and the names of its variables, into a file."""
    program = scene.folder / "page.py"
    program.write_text(
        "import json, os, sys\n"
        "told = json.load(sys.stdin)\n"
        "open('told.json', 'w').write(json.dumps([told, sys.argv[1:], sorted(os.environ)]))\n"
    )
    return [sys.executable, str(program), "--team", "loyalty"]


def told(scene):
    (path,) = scene.folder.rglob("told.json")
    return json.loads(path.read_text())


def run(scene, url="", **how):
    environ = {"BULKISSUE_NOTIFY_WEBHOOK": url} if url else {}
    return scene.do("run", "job.toml", "--yes", "--json", environ={**environ, **how.pop("environ", {})}, **how)


def test_a_command_is_told(scene, write_job):
    """The command gets what happened on its standard input, and no secret in its variables."""
    write_job(
        scene.service.base_url,
        limits={"batch_size": 3},
        notify={"command": writer(scene)},
        reconcile={"settle_after_seconds": 0},
    )
    scene.service.order(Fault(kind="drop", nth=(2,)))
    ended = run(scene)
    event, arguments, variables = told(scene)
    assert event == {
        "event": "needs_person",
        "job": "test",
        "run_id": ended.json["run_id"],
        "run_dir": str(scene.run_dir()),
        "target": ended.json["target"],
        "rehearsal": False,
        "state": "completed",
        "exit_code": 6,
        "meaning": event["meaning"],
        "counts": {"rows": 6, "succeeded": 3, "unknown": 3},
        "reasons": ended.json["reasons"],
        "next": event["next"],
    }
    assert any("bulkissue reconcile" in step for step in event["next"])
    assert arguments == ["--team", "loyalty"]
    assert not [name for name in variables if name.startswith("BULKISSUE_CLIENT")]
    assert not any(mobile in json.dumps(event) for (mobile,) in MOBILES)
    (scene.folder / "told.json").unlink()
    scene.do("reconcile", "latest", "--json")
    assert "unknown" not in told(scene)[0]["counts"]


def test_a_webhook_is_told(scene, write_job, receiver):
    """What happened is posted; of a run that went well only if that is wanted, and a rehearsal says that it is one."""
    write_job(scene.service.base_url, notify={"webhook": True})
    run(scene, receiver.url)
    assert receiver.received == []
    write_job(scene.service.base_url, name="all.toml", notify={"webhook": True, "on": ["finished"]})
    environ = {"BULKISSUE_NOTIFY_WEBHOOK": receiver.url}
    scene.do("run", "all.toml", "--occasion", "again", "--yes", environ=environ)
    scene.do("run", "all.toml", "--sandbox", environ=environ)
    assert [(one["event"], one["rehearsal"]) for one in receiver.received] == [("finished", False), ("finished", True)]


def test_a_run_that_cannot_begin(scene, write_job, receiver):
    """Cron's job without its file needs a person as well; one that meets another run at work does not."""
    write_job(scene.service.base_url, notify={"webhook": True})
    (scene.folder / "input.csv").unlink()
    ended = run(scene, receiver.url)
    assert ended.code == 4
    (event,) = receiver.received
    assert (event["exit_code"], event["event"]) == (4, "needs_person")
    assert event["message"] == ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("notify", "why"),
    [
        ({"webhook": True}, "BULKISSUE_NOTIFY_WEBHOOK is not set"),
        ({"command": ["/no/such/program"]}, "FileNotFoundError"),
        ({"command": ["false"]}, "ended with 1"),
        ({"command": ["sh", "-c", "sleep 60 & sleep 60"], "timeout_seconds": 0.5}, "no end within 0.5 seconds"),
        ({"apprise": True}, "BULKISSUE_NOTIFY_APPRISE is not set"),
    ],
)
def test_who_cannot_be_told(scene, write_job, notify, why):
    """It is one warning, with why, and the run ends as it would have."""
    write_job(scene.service.base_url, notify={"on": ["finished"], **notify})
    began = time.monotonic()
    ended = run(scene)
    assert ended.code == 0
    assert time.monotonic() - began < 30
    (line,) = [json.loads(line) for line in ended.err.splitlines() if "notify.failed" in line]
    assert why in line["why"]


@pytest.mark.parametrize(("status", "why"), [(500, "HTTP 500"), (302, "HTTP 302")])
def test_a_webhook_that_fails(scene, write_job, receiver, status, why):
    """The answer's status is said, and the URL, which may hold a secret, nowhere."""
    write_job(scene.service.base_url, notify={"webhook": True, "on": ["finished"]})
    receiver.status = status
    ended = run(scene, receiver.url)
    assert (ended.code, why in ended.err) == (0, True)
    left = [path for path in scene.runs_dir.rglob("*") if path.is_file() and b"hid7den" in path.read_bytes()]
    assert ("hid7den" in ended.err, left) == (False, [])


def test_apprise(scene, write_job, receiver):
    """Mail and chat go by apprise; here its own JSON over HTTP."""
    pytest.importorskip("apprise")
    write_job(scene.service.base_url, notify={"apprise": True, "on": ["finished"]})
    url = f"json://127.0.0.1:{receiver.server_port}/"
    ended = run(scene, environ={"BULKISSUE_NOTIFY_APPRISE": url})
    assert ended.code == 0, ended.err
    (message,) = receiver.received
    assert "bulkissue test" in message["title"]
    assert "6 succeeded" in message["message"]


def figures(path):
    """Every sample of a file: name and labels but for the job, to its value."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "job"}
            assert sample.labels["job"] == "test"
            found[" ".join([sample.name, *labels.values()])] = sample.value
    return found


def test_metrics(scene, write_job):
    """At the end a file says what came of the run and how the job stands; a run that fails keeps the last success."""
    write_job(scene.service.base_url, limits={"batch_size": 3}, metrics={"textfile": "prom/{job}.prom"})
    (scene.folder / "prom").mkdir()
    path = scene.folder / "prom" / "test.prom"
    os.umask(0o077)
    run(scene)
    first = figures(path)
    assert first["bulkissue_rows succeeded"] == 6
    assert (first["bulkissue_exit_code"], first["bulkissue_unknown_rows"], first["bulkissue_sending"]) == (0, 0, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    scene.service.order(Fault(kind="drop", nth=(2,)))
    scene.do("run", "job.toml", "--occasion", "again", "--yes")
    second = figures(path)
    assert (second["bulkissue_exit_code"], second["bulkissue_unknown_rows"]) == (6, 3)
    assert second["bulkissue_last_success_timestamp_seconds"] == first["bulkissue_last_success_timestamp_seconds"]
    assert second["bulkissue_oldest_unknown_timestamp_seconds"] == second["bulkissue_last_run_timestamp_seconds"]
    assert {name.split()[0] for name in second} <= METRICS.keys()
    (reason,) = [name for name in second if name.startswith("bulkissue_reason_rows")]
    assert second[reason] == 3


def test_metrics_while_sending(scene, write_job, write_input):
    """While a run sends, the file says so."""
    write_input(["mobile"], MOBILES[:200])
    write_job(
        scene.service.base_url,
        limits={"batch_size": 5, "requests_per_minute": 600, "concurrency": 1},
        metrics={"textfile": "now.prom"},
    )
    started = scene.start("run", "job.toml", "--yes")
    path = scene.folder / "now.prom"
    by = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < by
        time.sleep(0.05)
    during = figures(path)
    assert (during["bulkissue_sending"], during["bulkissue_requests_per_minute"]) == (1, 600)
    assert started.wait().code == 0
    assert figures(path)["bulkissue_sending"] == 0


def test_metrics_that_cannot_be_written(scene, write_job):
    """It is a warning, and the run ends as it would have."""
    write_job(scene.service.base_url, metrics={"textfile": "no/such/folder/x.prom"})
    ended = run(scene)
    assert (ended.code, "metrics.failed" in ended.err) == (0, True)


def test_alerts_name_what_is_told():
    """The rules for Prometheus use metrics that there are."""
    rules = (ROOT / "docs" / "alerts.yml").read_text()
    named = set(re.findall(r"bulkissue_[a-z_]+", "\n".join(re.findall(r"expr: (.*)", rules))))
    assert named
    assert named <= METRICS.keys()


def test_an_internal_error_is_told(scene, write_job):
    """What nobody thought of is told by its kind alone: its text may hold anything."""
    path = write_job(scene.service.base_url, notify={"command": writer(scene)})
    job = load(path, environ={}).job
    with pytest.raises(KeyError), on_trouble(job, os.environ, scene.folder):
        raise KeyError("919986000700")
    event, *_ = told(scene)
    assert (event["event"], event["exit_code"], event["message"]) == ("needs_person", 1, "internal error: KeyError")
    assert "919986000700" not in json.dumps(event)
