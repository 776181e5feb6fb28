"""What schedule prints is what cron, systemd and Kubernetes take, with every exit code meaning what it should there."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ENVIRON, Ended
from jobfiles import problems_of, writer

from bulkissue.commands.schedule import CRON_LENGTH, Place, Schedule, schedule
from bulkissue.errors import SettingsRefused
from bulkissue.job import cron
from bulkissue.job.loading import load

#: A folder as nobody should name one, and somebody does.
ODD = '50% off, Asha\'s "$HOME"'
SAID = {
    0: "",
    75: "",
    5: "failure.csv",
    6: "needs a person",
    7: "stopped by a guard",
    8: "interrupted",
    1: "see the log",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a job and a program in it that ends as `ending` says."""
    place = tmp_path / ODD
    writer(place)(schedule__cron="30 6 * * mon-fri")
    program = place / "bulkissue"
    program.write_text(f'#!/bin/sh\necho "$@"\nenv >&2\nexit $(cat {shlex.quote(str(place))}/ending)\n')
    program.chmod(0o700)
    return place


def of(folder: Path, environ: Mapping[str, str] | None = None) -> Schedule:
    loaded = load(folder / "job.toml", environ=environ or {})
    return schedule(loaded, Place([str(folder / "bulkissue")], "campaigns", "registry.example/b:1"), environ or {})


def shell(script: str, cwd: Path, **environ: str) -> Ended:
    ended = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PATH": f"{cwd}:/usr/bin:/bin", **environ},
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def units(text: str) -> dict[str, dict[str, list[str]]]:
    """A unit's sections; keys are in lower case, and may stand several times."""

    class Lines(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, self[key] + value if key in self and isinstance(value, list) else value)

    parser = configparser.RawConfigParser(dict_type=Lines, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.read_string(text)
    return {name: {key: value.split("\n") for key, value in parser.items(name)} for name in parser.sections()}


def systemd_words(line: str) -> list[str]:
    """A command of a unit as systemd gives it to the program."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


@pytest.mark.parametrize("code", SAID)
def test_the_crontab_line(folder, code):
    """It gives the five fields, and a command that is silent, or says what to do, as the exit code asks for."""
    (folder / "ending").write_text(str(code))
    line = of(folder).crontab.removesuffix("\n")
    assert "\n" not in line
    assert not re.search(r"(?<!\\)%", line)
    match = re.fullmatch(r"30 6 \* \* 1-5 (.*)", line)
    assert match
    ended = shell(match[1].replace(r"\%", "%"), folder.parent)
    assert ended.err == ""
    assert bool(ended.out) == bool(SAID[code])
    assert SAID[code] in ended.out
    log = folder / "log" / "bulkissue-diwali.json"
    assert log.read_text() == f"run {folder / 'job.toml'} --yes --json\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "BULKISSUE_CLIENT_SECRET_FILE=/etc/bulkissue/client_secret" in log.with_suffix(".log").read_text()


def test_a_crontab_line_has_its_length(tmp_path):
    """A line that some cron programs refuse says so, and stays one line."""
    (tmp_path / "job").mkdir()
    writer(tmp_path / "job")(schedule__cron="0 6 * * *")
    assert len(of(tmp_path / "job").crontab) < CRON_LENGTH
    long = tmp_path / ("x" * 200) / ("y" * 200)
    long.parent.mkdir()
    writer(long)(schedule__cron="0 6 * * *")
    comment, line = of(long).crontab.splitlines()
    assert comment.startswith("# longer than 998 characters")
    assert line.startswith("0 6 * * * ")


@pytest.mark.parametrize("code", SAID)
def test_the_service(folder, code):
    """The unit starts the job once, calls 75 a success and nothing else, never starts again, and says what happened."""
    (folder / "ending").write_text(str(code))
    service = units(of(folder).service)["Service"]
    assert service["type"] == ["oneshot"]
    assert (service["successexitstatus"], service["restart"], service["user"]) == (["75"], ["no"], ["campaigns"])
    assert service["workingdirectory"] == [str(folder).replace("%", "%%")]
    [command] = service["execstart"]
    assert systemd_words(command) == [str(folder / "bulkissue"), "run", str(folder / "job.toml"), "--yes", "--json"]
    assert service["loadcredential"] == [f"{name}:/etc/bulkissue/{name}" for name in ("client_key", "client_secret")]
    assert "BULKISSUE_CLIENT_KEY_FILE=%d/client_key" in shlex.split(service["environment"][0])
    [afterwards] = service["execstoppost"]
    shell_path, option, script = systemd_words(afterwards)
    assert (shell_path, option) == ("/bin/sh", "-c")
    ended = shell(script, folder, EXIT_STATUS=str(code))
    assert (bool(ended.out), ended.err) == (bool(SAID[code]), "")
    assert SAID[code] in ended.out


def test_a_stop_waits_for_the_answers_under_way(folder):
    """Both systemd and Kubernetes give a run the time that its timeouts may take, and more for its books."""
    found = of(folder)
    assert units(found.service)["Service"]["timeoutstopsec"] == ["190"]
    pod = json.loads(found.cronjob)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 190


def test_the_timer(folder):
    """It starts the service at the job's time."""
    timer = units(of(folder).timer)
    assert timer["Timer"]["oncalendar"] == ["Mon,Tue,Wed,Thu,Fri *-*-* 6:30:00"]
    assert timer["Timer"]["unit"] == ["bulkissue-diwali.service"]
    assert timer["Install"] == {"wantedby": ["timers.target"]}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path):
    """There is nothing that systemd has to say against them."""
    place = tmp_path / "a b"
    writer(place)(schedule__cron="*/20 6-8,20 1,15 jan-jun mon-fri")
    program = place / "bulkissue"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    found = of(place)
    for kind in ("service", "timer"):
        (tmp_path / f"{found.name}.{kind}").write_text(getattr(found, kind).replace("User=campaigns\n", ""))
    files = [tmp_path / f"{found.name}.{kind}" for kind in ("service", "timer")]
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, [line for line in ended.stderr.splitlines() if found.name in line]) == (0, [])


def cronjob(folder: Path, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(of(folder, environ).cronjob)
    return found


def container(found: dict[str, Any]) -> dict[str, Any]:
    [only] = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def test_the_cronjob(folder):
    """Two never run beside each other, and no code that a person has to look at first is followed by a second start."""
    found = cronjob(folder)
    spec = found["spec"]
    assert (found["apiVersion"], found["kind"], spec["schedule"]) == ("batch/v1", "CronJob", "30 6 * * 1-5")
    assert (spec["timeZone"], spec["concurrencyPolicy"]) == ("Etc/UTC", "Forbid")
    [rule] = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [1, 2, 3, 4, 5, 6, 7]
    assert spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"]["key"] for one in container(found)["env"]}
    assert secrets == {"BULKISSUE_CLIENT_KEY": "client_key", "BULKISSUE_CLIENT_SECRET": "client_secret"}
    mounts = [mount["mountPath"] for mount in container(found)["volumeMounts"]]
    assert mounts == [str(folder)]  # runs and state lie below it


@pytest.mark.parametrize("code", SAID)
def test_the_container(folder, code):
    """It ends with the run's own code, but for 75, which is no failure of the pod."""
    (folder / "ending").write_text(str(code))
    *shell_words, script = container(cronjob(folder))["command"]
    assert shell_words == ["/bin/sh", "-c"]
    ended = shell(script, folder)
    assert ended.code == (0 if code == 75 else code)
    assert SAID[code] in ended.err
    assert ended.out == f"run {folder / 'job.toml'} --yes --json\n"


def test_the_container_hands_on_the_signal(folder):
    """The run is told when its pod is to end, and its own code is the pod's."""
    program = folder / "bulkissue"
    program.write_text("#!/bin/sh\ntrap 'sleep 0.3; exit 8' TERM\necho begun\nwhile :; do sleep 0.05; done\n")
    script = container(cronjob(folder))["command"][-1]
    environ = {"PATH": f"{folder}:/usr/bin:/bin"}
    with subprocess.Popen(
        ["/bin/sh", "-c", script], cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as pod:
        assert pod.stdout
        assert pod.stdout.readline() == "begun\n"
        time.sleep(0.1)  # until the shell waits for it
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(20) == 8
        assert pod.stderr
        assert "interrupted" in pod.stderr.read()


def test_settings_of_the_environment_are_written_down(folder):
    """What the environment said when it was asked is said again when it runs; a secret is named, and never shown."""
    environ = {
        "BULKISSUE_REQUESTS_PER_MINUTE": "60",
        "BULKISSUE_RUNS_DIR": "today's runs",
        "BULKISSUE_CLIENT_KEY_FILE": "/srv/key",
        "BULKISSUE_CLIENT_SECRET": "hunter2-hunter2",
        "UNRELATED": "x",
    }
    found = of(folder, environ)
    whole = found.crontab + found.service + found.timer + found.cronjob
    assert "hunter2" not in whole
    assert "UNRELATED" not in whole
    runs = f"BULKISSUE_RUNS_DIR={Path.cwd() / chr(116)}oday's runs"
    environment = shlex.split(units(found.service)["Service"]["environment"][0])
    assert environment[:2] == ["BULKISSUE_REQUESTS_PER_MINUTE=60", runs]
    assert {"name": "BULKISSUE_REQUESTS_PER_MINUTE", "value": "60"} in container(json.loads(found.cronjob))["env"]
    assert units(found.service)["Service"]["loadcredential"][0] == "client_key:/srv/key"
    (folder / "ending").write_text("0")
    shell(found.crontab.partition("1-5 ")[2].replace(r"\%", "%"), folder)
    told = (folder / "log" / "bulkissue-diwali.log").read_text().splitlines()
    assert {"BULKISSUE_REQUESTS_PER_MINUTE=60", runs, "BULKISSUE_CLIENT_KEY_FILE=/srv/key"} <= set(told)


def test_unattended_jobs_need_no_yes(folder):
    """A job that may send by itself is started without --yes."""
    writer(folder)(schedule__cron="0 6 * * *", job__unattended=True)
    found = of(folder)
    assert "--yes" not in found.crontab + found.service + found.cronjob


def test_names_that_kubernetes_takes(folder):
    """Whatever a job is called, the names of its units and of its CronJob are plain and short."""
    names = {}
    for name in ("Diwali, für Asha!", "x" * 80, "---"):
        writer(folder)(schedule__cron="0 6 * * *", job__name=name)
        names[name] = of(folder).name
    assert all(
        re.fullmatch(r"bulkissue-[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 52 for name in names.values()
    )
    assert names["Diwali, für Asha!"] == "bulkissue-diwali-f-r-asha"


def test_a_folder_that_no_line_can_hold(tmp_path):
    """A path with a line break is refused: what stands behind it would be a line of its own."""
    writer(tmp_path / "a\nb")(schedule__cron="0 6 * * *")
    with pytest.raises(SettingsRefused, match="cannot stand in a line"):
        of(tmp_path / "a\nb")


CALENDARS = {
    "0 6 * * *": ("0 6 * * *", ["*-*-* 6:0:00"]),
    "*/15 * * * *": ("0,15,30,45 * * * *", ["*-*-* *:0,15,30,45:00"]),
    "5 8-10,20 1 */6 *": ("5 8,9,10,20 1 1,7 *", ["*-1,7-1 8,9,10,20:5:00"]),
    "0 0 * JAN-MAR 5-7": ("0 0 * 1-3 0,5,6", ["Sun,Fri,Sat *-1..3-* 0:0:00"]),
    "0 0 1,15 * mon": ("0 0 1,15 * 1", ["*-*-1,15 0:0:00", "Mon *-*-* 0:0:00"]),
    "10-40/10 0 29 2 *": ("10,20,30,40 0 29 2 *", ["*-2-29 0:10,20,30,40:00"]),
    "0 0 */1 * 1": ("0 0 * * 1", ["Mon *-*-* 0:0:00"]),
}


@pytest.mark.parametrize("text", CALENDARS)
def test_times(text):
    """The five fields mean the same to cron, Kubernetes and systemd; where cron says either day, so do calendars."""
    found = cron.parse(text)
    assert (found.text(), found.calendars()) == CALENDARS[text]
    assert cron.parse(found.text()) == found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_calendars():
    """Each is one that systemd reads, and that will come."""
    every = [one for _, calendars in CALENDARS.values() for one in calendars]
    ended = subprocess.run(
        ["systemd-analyze", "calendar", *every], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.count("Next elapse: ")) == (0, len(every)), ended.stderr


@pytest.mark.parametrize(
    "text",
    [
        *("", "@daily", "0 6 * *", "0 6 * * * *", "60 6 * * *", "0 24 * * *", "0 6 0 * *", "0 6 * 13 *", "0 6 * * 8"),
        *("0 6 * * fri-mon", "5/15 * * * *", "*/0 * * * *", "*/99 * * * *", "0 6 L * *", "0 6 ? * *", "0 6 * * 5#2"),
        *("-5 * * * *", "1- * * * *", "*,5 * * * *", "0 6 30 2 *", "0 6 31 4,6 *", "0 6 */2 * 1", "0 6 1 * */2"),
        *("0 6 * * *\n* * * * * x", "H 6 * * *", "0 6 * foo *", "٣ 6 * * *"),
    ],
)
def test_times_that_are_refused(text, tmp_path):
    """What is no time, or one that programs read differently, is a problem of the job file that names the key."""
    [problem] = problems_of(writer(tmp_path)(schedule__cron=text))
    assert problem.startswith("schedule.cron: ")


def test_the_command(tmp_path, command: Callable[..., Ended]):
    """It prints all four, or the one that is asked for; --cron says when, and without a time it is refused."""
    path = writer(tmp_path)()
    refused = command("schedule", path)
    assert (refused.code, refused.out) == (3, "")
    assert "does not say when" in refused.err
    whole = command("schedule", path, "--cron", "0 6 * * *", "--image", "b:2")
    assert whole.code == 0
    for kind in ("crontab", "service", "timer", "cronjob"):
        alone = command("schedule", path, "--cron", "0 6 * * *", "--image", "b:2", "--only", kind)
        assert (alone.code, alone.err) == (0, "")
        assert alone.out in whole.out
    assert json.loads(alone.out)["spec"]["schedule"] == "0 6 * * *"
    assert ENVIRON["BULKISSUE_CLIENT_SECRET"] not in re.findall(r"\w+", whole.out.replace("client_secret", ""))
    assert command("schedule", path, "--cron", "0 6 * *").code == 3


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion(shell_name, command: Callable[..., Ended]):
    """Each shell's script asks the program, and the program knows its commands and options."""
    ended = command("completion", shell_name)
    assert (ended.code, ended.err) == (0, "")
    assert f"_BULKISSUE_COMPLETE={shell_name}_complete" in ended.out
    asked = {"_BULKISSUE_COMPLETE": f"{shell_name}_complete", "COMP_WORDS": "bulkissue exp", "COMP_CWORD": "1"}
    assert "export" in command(environ=asked | ({"COMP_CWORD": "exp"} if shell_name == "fish" else {})).out
    asked |= {"COMP_WORDS": "bulkissue export --with", "COMP_CWORD": "2"}
    assert (
        "--without-identifiers"
        in command(environ=asked | ({"COMP_CWORD": "--with"} if shell_name == "fish" else {})).out
    )


def test_bash_takes_the_script(tmp_path, command: Callable[..., Ended]):
    """It is read without complaint, and bash has a completion for the program then."""
    script = tmp_path / "completion.sh"
    script.write_text(command("completion", "bash").out)
    ended = subprocess.run(
        ["bash", "--norc", "-c", f". {shlex.quote(str(script))}; complete -p bulkissue"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip().endswith("bulkissue")
