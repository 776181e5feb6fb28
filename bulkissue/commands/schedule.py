"""
Schedule: a job as a line for cron, as units for systemd, and as a CronJob for Kubernetes.

Pure: writes nothing and starts nothing. It must never put a secret into what it prints, only where it is to be found;
nor let a scheduler start a run again by itself where a person has to look first.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkissue.errors import ExitCode, SettingsRefused
from bulkissue.job import cron
from bulkissue.job.credentials import SECRET_VARIABLES
from bulkissue.job.loading import LoadedJob

#: What some cron programs take of a line.
CRON_LENGTH = 998
_SECRETS = "/etc/bulkissue"
#: Nothing to tell: it went well, or another run of this target is at work, whose turn it is.
_SILENT = (ExitCode.OK, ExitCode.LOCKED)
_TOLD = {
    ExitCode.FAILED_ROWS: "some rows failed or were rejected, see failure.csv",
    ExitCode.UNKNOWN_ROWS: "needs a person, some rows are unknown: bulkissue reconcile RUN, then resolve",
    ExitCode.STOPPED: "stopped by a guard, mend the cause, then bulkissue resume RUN",
    ExitCode.INTERRUPTED: "interrupted, bulkissue resume RUN goes on",
}
#: Codes after which another start, by a machine, must not come: a person looks first.
_FINAL = tuple(code for code in ExitCode if code not in {*_SILENT, ExitCode.INTERRUPTED})
#: Beside the time for the answers under way: writing the books.
_BOOKS_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where the job is to run.

    Attributes:
        program: The command, as its words.
        user: Under whose name; empty for whoever the scheduler takes.
        image: Of the container.
    """

    program: Sequence[str]
    user: str
    image: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """The texts: a crontab line, a systemd service and its timer, a Kubernetes CronJob (JSON)."""

    name: str
    crontab: str
    service: str
    timer: str
    cronjob: str


def schedule(loaded: LoadedJob, place: Place, environ: Mapping[str, str]) -> Schedule:
    """
    A job's time, as three schedulers have it.

    Args:
        loaded: The job, with `[schedule] cron`.
        place: Where it is to run.
        environ: The environment it was loaded with: settings that come from there are written down, secrets are not.

    Raises:
        SettingsRefused: The job names no time; or a path cannot stand in a line.
    """
    written = loaded.job.schedule.cron
    if written is None:
        raise SettingsRefused(
            f"{loaded.path} does not say when", hint='cron = "0 6 * * *" under [schedule], or --cron "0 6 * * *"'
        )
    when = cron.parse(written)
    about = _About.of(loaded, place, environ)
    return Schedule(about.name, _crontab(when, about), _service(about), _timer(when, about), _cronjob(when, about))


@dataclass(frozen=True, slots=True)
class _About:
    """
    What all three are told of a job.

    Attributes:
        settings: By variable: what the environment says, secrets left out.
        secrets: By variable: the file that has it.
        stop_seconds: How long a run may take to end when it is asked to.
    """

    loaded: LoadedJob
    place: Place
    name: str
    settings: dict[str, str]
    secrets: dict[str, str]
    stop_seconds: int

    @classmethod
    def of(cls, loaded: LoadedJob, place: Place, environ: Mapping[str, str]) -> "_About":
        variables = {key: origin for key, origin in loaded.origins.items() if origin in environ}
        settings = {origin: environ[origin] for origin in variables.values()}
        # Relative ones are relative to where this command was given.
        settings |= {variables[key]: str(path) for key, path in _folders(loaded).items() if key in variables}
        secrets = {
            variable: environ.get(f"{variable}_FILE", f"{_SECRETS}/{_plain(variable)}")
            for variable in SECRET_VARIABLES[loaded.job.api.auth.method]
        }
        limits = loaded.job.api.limits
        seconds = int(limits.connect_timeout_seconds + limits.read_timeout_seconds) + _BOOKS_SECONDS
        about = cls(loaded, place, _dns_name(loaded.job.job.name), settings, secrets, seconds)
        texts = (str(loaded.path), *map(str, _folders(loaded).values()), *settings.values(), *secrets.values())
        for text in (*texts, *place.program):
            if not text.isprintable():
                raise SettingsRefused(f"{text!r} has a character that cannot stand in a line", hint="rename it")
        return about

    def words(self, program: Sequence[str]) -> list[str]:
        """The command."""
        allowed = [] if self.loaded.job.job.unattended else ["--yes"]
        return [*program, "run", str(self.loaded.path), *allowed, "--json"]

    def told(self, before: str = "") -> str:
        """Shell: say what `$code` means, where somebody should know."""
        silent = "|".join(str(int(code)) for code in _SILENT)
        cases = " ".join(f"{int(code)}) why='{text}';;" for code, text in _TOLD.items())
        return (
            f"case $code in {silent}) why=;; {cases} *) why='see the log';; esac; "
            f'if [ "$why" ]; then echo "{before}{self.name}: exit $code, $why"; fi'
        )


def _crontab(when: cron.Cron, about: _About) -> str:
    files = {f"{variable}_FILE": path for variable, path in about.secrets.items()}
    environment = [f"{name}={shlex.quote(value)}" for name, value in {**about.settings, **files}.items()]
    command = " ".join([*environment, *map(shlex.quote, about.words(about.place.program))])
    log = f"log/{about.name}"
    line = (
        f"cd {shlex.quote(str(about.loaded.base))} && umask 077 && mkdir -p log && "
        f"{command} >>{log}.json 2>>{log}.log; code=$?; {about.told()}"
    )
    line = f"{when.text()} {line}".replace("%", r"\%")  # a bare one ends cron's command
    too_long = f"# longer than {CRON_LENGTH} characters, which some cron programs refuse: put it into a script\n"
    return f"{too_long if len(line) > CRON_LENGTH else ''}{line}\n"


def _service(about: _About) -> str:
    credentials = {variable: _plain(variable) for variable in about.secrets}
    environment = [_unit_word(f"{name}={value}", dollar="$") for name, value in about.settings.items()]
    # %d is the folder to which systemd brings the credentials, for this service alone.
    environment += [f'"{variable}_FILE=%d/{file}"' for variable, file in credentials.items()]
    told = f"code=$EXIT_STATUS; {about.told('<4>')}"  # <4>: a warning, for the journal
    return _unit(
        {
            "Unit": [
                ("Description", f"bulkissue run of {about.name}"),
                ("Wants", "network-online.target"),
                ("After", "network-online.target"),
            ],
            "Service": [
                ("Type", "oneshot"),
                *([("User", about.place.user)] if about.place.user else []),
                ("WorkingDirectory", str(about.loaded.base).replace("%", "%%")),
                ("UMask", "0077"),
                ("Environment", " ".join(environment)),
                *(
                    ("LoadCredential", f"{file}:{about.secrets[variable]}".replace("%", "%%"))
                    for variable, file in credentials.items()
                ),
                ("ExecStart", " ".join(_unit_word(word) for word in about.words(about.place.program))),
                ("SuccessExitStatus", str(int(ExitCode.LOCKED))),
                ("ExecStopPost", f"/bin/sh -c {_unit_word(told)}"),
                ("Restart", "no"),
                ("TimeoutStopSec", str(about.stop_seconds)),
                ("NoNewPrivileges", "yes"),
            ],
        }
    )


def _timer(when: cron.Cron, about: _About) -> str:
    return _unit(
        {
            "Unit": [("Description", f"when bulkissue runs {about.name}")],
            "Timer": [
                *(("OnCalendar", one) for one in when.calendars()),
                ("AccuracySec", "1s"),
                ("Persistent", "yes"),
                ("Unit", f"{about.name}.service"),
            ],
            "Install": [("WantedBy", "timers.target")],
        }
    )


def _cronjob(when: cron.Cron, about: _About) -> str:
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in about.settings.items()]
    environment += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": about.name, "key": _plain(variable)}}}
        for variable in about.secrets
    ]
    mounts = _outermost([about.loaded.base, *_folders(about.loaded).values()])
    container = {
        "name": "bulkissue",
        "image": about.place.image,
        "command": ["/bin/sh", "-c", _in_container(about)],
        "workingDir": str(about.loaded.base),
        "env": environment,
        "volumeMounts": [{"name": "data", "mountPath": str(path), "subPath": str(path).lstrip("/")} for path in mounts],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": about.stop_seconds,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": about.name}}],
    }
    final = {"operator": "In", "values": [int(code) for code in _FINAL]}
    job = {
        # An interrupted run, and a pod that was killed, get a second start, which sends nothing twice.
        "backoffLimit": 1,
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onExitCodes": {"containerName": "bulkissue", **final}}],
        },
        "template": {"metadata": {"labels": {"app": about.name}}, "spec": pod},
    }
    whole = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": about.name},
        "spec": {
            "schedule": when.text(),
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "jobTemplate": {"spec": job},
        },
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _in_container(about: _About) -> str:
    """
    Shell: the run, which is told when the pod is to end, as the shell would keep that to itself; and its code.

    A pod that ends with 75 would have failed.
    """
    command = " ".join(map(shlex.quote, about.words(["bulkissue"])))
    return "\n".join(
        (
            f"{command} & run=$!; asked=",
            "trap 'asked=1; kill -TERM $run' TERM INT",
            "wait $run; code=$?",
            'if [ -n "$asked" ]; then wait $run; code=$?; fi',
            f"{{ {about.told()}; }} >&2",
            f"if [ $code -eq {int(ExitCode.LOCKED)} ]; then exit 0; fi",
            "exit $code",
        )
    )


def _folders(loaded: LoadedJob) -> dict[str, Path]:
    return {"output.runs_dir": loaded.runs_dir, "output.state_dir": loaded.state_dir}


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """Folders of which none lies below another."""
    return [path for path in sorted(set(folders)) if not any(other in path.parents for other in folders)]


def _plain(variable: str) -> str:
    return variable.removeprefix("BULKISSUE_").lower()


def _dns_name(name: str) -> str:
    """A name that units and Kubernetes take; a CronJob's has at most 52 characters."""
    return f"bulkissue-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'job'}"[:52].rstrip("-")


def _unit(sections: dict[str, list[tuple[str, str]]]) -> str:
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key}={value}\n" for key, value in lines) for section, lines in sections.items()
    )


def _unit_word(text: str, *, dollar: str = "$$") -> str:
    """One word of a unit's line: in it a quotation mark, a backslash, a % and, in a command, a $ mean something."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", dollar)
    return f'"{text}"'
