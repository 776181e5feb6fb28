"""
The job file: found, read, layered with variables and flags, and checked; and the input files it names.

Must never write or send anything.
"""

import glob
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from bulkissue.errors import JobRefused
from bulkissue.job import layers
from bulkissue.job.credentials import SECRET_NAMES, SECRETS_HINT, secret_states, take_secrets
from bulkissue.job.model import SETTINGS, Job, at
from bulkissue.job.problems import disagreements, explained, nearest, quoted, shown

_FROM_ENVIRONMENT = ("api.limits", "guards", "reconcile")
_VARIABLES: dict[str, str] = {
    f"BULKISSUE_{key.rpartition('.')[2].upper()}": key
    for key in SETTINGS
    if key.rpartition(".")[0] in _FROM_ENVIRONMENT
    or key in {"api.base_url", "api.environment", "output.runs_dir", "output.state_dir"}
}
#: How an inbox is taken and cleared; said of the job's own patterns only.
INBOX = ("input.done", "input.settle_seconds", "input.marker")


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """
    A job and where each of its settings comes from.

    Attributes:
        job: Checked; its folders and input patterns are absolute.
        path: The job file, absolute.
        origins: By dotted key, for every setting: `default`, `file`, `flag`, or the variable's name.
        warnings: Sentences worth saying that refuse nothing.
    """

    job: Job
    path: Path
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """The job file's folder; input files are named relative to it."""
        return self.path.parent

    @property
    def runs_dir(self) -> Path:
        """Where run folders are made, absolute."""
        return Path(self.job.output.runs_dir)

    @property
    def state_dir(self) -> Path:
        """Where history and locks are kept, absolute."""
        return Path(self.job.output.state_dir)


def load(
    path: Path,
    *,
    flags: Mapping[str, object] = MappingProxyType({}),
    environ: Mapping[str, str],
    environment: str | None = None,
) -> LoadedJob:
    """
    Read and check a job file.

    Flags beat `BULKISSUE_*` variables beat the file beat the defaults. Relative paths are relative to the job
    file where they stand in it, and to the current directory where a flag or variable gives them.

    Args:
        path: The job file.
        flags: Dotted key and value, such as `job.occasion`; None is as good as absent. Files given by `input.paths`
            are taken as they are, and stay where they are: `done`, `settle_seconds` and `marker` do not apply.
        environ: The variables.
        environment: Which of the job file's `[environments]` goes over `[api]`; None for none.

    Raises:
        JobRefused: The file cannot be read, or will not do; every problem in it is named.
    """
    path = path.parent.resolve() / path.name
    tree = _read(path)
    places = _places(tree)
    problems = list(take_secrets(tree))
    problems.extend(layers.choose(tree, environment))
    problems.extend(layers.expand(tree, environ, datetime.now().astimezone().date()))
    hint = SECRETS_HINT if problems else None

    origins = {key: "default" if at(tree, key) is None else "file" for key in SETTINGS}
    for variable, key in _VARIABLES.items():
        if variable in environ:
            _put(tree, key, _parsed(environ[variable], SETTINGS[key]))
            origins[key] = variable
    for key, value in flags.items():
        if value is not None:
            _put(tree, key, [str(each) for each in value] if isinstance(value, list | tuple) else value)
            origins[key] = "flag"
    if origins["input.paths"] == "flag":  # files that are named one by one are no inbox
        for key in INBOX:
            if at(tree, key) is not None:
                _put(tree, key, SETTINGS[key].default)
                origins[key] = "flag"

    job = None
    try:
        job = Job.model_validate(tree)
    except ValidationError as refused:
        problems.extend(explained(error) for error in refused.errors(include_url=False))
    problems.extend(disagreements(tree, refused={key for key, _ in problems}))
    if job is None or problems:
        problems.sort(key=lambda problem: _place(problem[0], places))
        said = dict.fromkeys(f"{_labelled(key, origins)}: {text}" for key, text in problems)
        raise JobRefused(str(path), list(said), hint=hint or f"mend these, then ask `bulkissue check {path}`")
    return LoadedJob(_absolute(job, path.parent, origins), path, origins, tuple(_strangers(environ)))


def effective_toml(loaded: LoadedJob) -> bytes:
    """The whole effective job as a job file. Loaded again, with an empty environment, it gives an equal job."""
    return tomli_w.dumps(loaded.job.model_dump(mode="json", exclude_none=True)).encode()


def describe(loaded: LoadedJob, environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Every effective setting as key, value and origin, in the order of a job file; then the secrets, named only."""
    tree = loaded.job.model_dump(mode="json")
    settings = [(key, shown(at(tree, key), clip=None), loaded.origins[key]) for key in SETTINGS]
    return settings + secret_states(loaded.job, environ)


def _put(tree: Any, key: str, value: object) -> None:
    *tables, name = key.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):  # the file has a value where a table belongs; that is refused anyway
            return
    tree[name] = value


_SYNTAX_HINTS = {
    "Unescaped": "put text with backslashes in single quotes",
    "Illegal character": "a text may lack its closing quote",
    "Cannot": "a key or a table stands twice; keep one of them",
    "Expected '='": "write key = value; a key with spaces or signs needs quotes",
}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as refused:
        raise JobRefused(
            str(path), [f"the file cannot be read: {refused.strerror}"], hint="give the path of a job file"
        ) from None
    try:
        text = content.decode("utf-8-sig")  # Windows editors put a mark in front
    except UnicodeDecodeError as refused:
        before = content[: refused.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2]) + 1
        problem = f"line {line}, column {column}: this is not UTF-8"
        raise JobRefused(str(path), [problem], hint="save the file as UTF-8") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as refused:
        what, _, place = str(refused).rpartition(" (at ")
        usual = "text stands in quotes; numbers, true and false stand without"
        hint = next((hint for start, hint in _SYNTAX_HINTS.items() if what.startswith(start)), usual)
        raise JobRefused(str(path), [f"{place.rstrip(')')}: {what}"], hint=hint) from None


def _parsed(text: str, info: FieldInfo) -> object:
    """A variable's text as the key's type; as it stands where it is not that, to be refused with the rest."""
    if info.annotation is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    with suppress(ValueError):
        if info.annotation in {int, float}:
            return info.annotation(text)
    return text


def _strangers(environ: Mapping[str, str]) -> Iterator[str]:
    known = [*_VARIABLES, *SECRET_NAMES]
    for name in sorted(environ):
        if name.startswith("BULKISSUE_") and name not in known:
            yield f"the variable {name} means nothing to bulkissue{nearest(name, known)}"


def _absolute(job: Job, base: Path, origins: Mapping[str, str]) -> Job:
    def start(key: str) -> Path:
        return base if origins[key] in {"file", "default"} else Path.cwd()

    def folder(key: str, text: str) -> str:
        # Links followed: one state folder has one name, whichever way the job is called.
        return os.path.realpath(start(key) / text)

    def pattern(text: str) -> str:
        # The folder it starts at is a name, whatever signs it holds.
        return os.path.normpath(Path(glob.escape(str(start("input.paths"))), text))

    output = {
        "runs_dir": folder("output.runs_dir", job.output.runs_dir),
        "state_dir": folder("output.state_dir", job.output.state_dir),
    }
    metrics = job.metrics
    if metrics.textfile is not None:
        metrics = metrics.model_copy(update={"textfile": os.path.normpath(base / metrics.textfile)})
    notify = job.notify
    if notify.command and "/" in notify.command[0]:
        program, *arguments = notify.command
        notify = notify.model_copy(update={"command": [os.path.normpath(base / program), *arguments]})
    return job.model_copy(
        update={
            "metrics": metrics,
            "notify": notify,
            "input": job.input.model_copy(update={"paths": [pattern(text) for text in job.input.paths]}),
            "output": job.output.model_copy(update=output),
        }
    )


def _places(table: dict[str, Any], place: str = "") -> list[str]:
    """The file's dotted keys in its order."""
    keys = []
    for name, value in table.items():
        key = f"{place}{quoted(name)}"
        keys.append(key)
        if isinstance(value, dict):
            keys.extend(_places(value, f"{key}."))
    return keys


def _place(key: str, places: list[str]) -> int:
    """Where a problem belongs among the file's keys: at its own, else at its table, else at the end."""
    if key == "config_version":
        return -1
    while key and key not in places:
        key = key.rpartition(".")[0]
    return places.index(key) if key else len(places)


def _labelled(key: str, origins: Mapping[str, str]) -> str:
    origin = origins.get(key, "file")
    return key if origin in {"file", "default"} else f"{key} (from {'a flag' if origin == 'flag' else origin})"
