"""
The secrets that sign a run in: where they come from, and where they must not stand.

They come only by environment variables, or by the files that such variables name. Must never show a secret, nor
a file's name given for one, in a value that is printed, a message or a log.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkissue.errors import SettingsRefused
from bulkissue.job.model import KEYS, Job
from bulkissue.job.problems import quoted

#: The variables that hold the secrets of each way to sign in; each also as `…_FILE`.
SECRET_VARIABLES: dict[str, tuple[str, str]] = {
    "oauth": ("BULKISSUE_CLIENT_KEY", "BULKISSUE_CLIENT_SECRET"),
    "basic": ("BULKISSUE_USERNAME", "BULKISSUE_PASSWORD"),
}

#: Where those who are told of a run are found; each also as `…_FILE`.
NOTIFY_VARIABLES: dict[str, str] = {"webhook": "BULKISSUE_NOTIFY_WEBHOOK", "apprise": "BULKISSUE_NOTIFY_APPRISE"}
#: Every variable that holds a secret, or leads to a file with one.
SECRET_NAMES = tuple(
    name + end
    for name in (*(name for pair in SECRET_VARIABLES.values() for name in pair), *NOTIFY_VARIABLES.values())
    for end in ("", "_FILE")
)

#: What to try where a job file holds a secret.
SECRETS_HINT = (
    "secrets come only by the environment: "
    + "; ".join(f"{name} and {secret} for {method}" for method, (name, secret) in SECRET_VARIABLES.items())
    + "; each also as …_FILE, naming a file"
)
_LOOKS_SECRET = re.compile(
    r"secret|passw|passphrase|pwd|token|credential|bearer|user_?name|log_?in"
    r"|(client|api|access|private)_?key|^(user|pass|key|auth|authorization)$"
)
_KNOWN = {key.rpartition(".")[2] for key in KEYS}  # token_header, say, is a setting


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What signs a run in.

    Attributes:
        method: `oauth` or `basic`.
        name: The client key or the username.
        secret: The client secret, or the password as it is typed.
        warnings: About the files they come from.
    """

    method: str
    name: str = field(repr=False)
    secret: str = field(repr=False)
    warnings: tuple[str, ...] = ()


def read_credentials(job: Job, environ: Mapping[str, str]) -> Credentials:
    """
    The secrets that the job's way to sign in needs, from variables or from the files that variables name.

    Raises:
        SettingsRefused: One is missing, empty, given twice or unreadable; all such are named.
    """
    method = job.api.auth.method
    variables = SECRET_VARIABLES[method]
    name, secret = (_secret(variable, environ) for variable in variables)
    if problems := [found.problem for found in (name, secret) if found.problem]:
        raise SettingsRefused(
            "\n".join(problems),
            hint=f'method = "{method}" needs {variables[0]} and {variables[1]}, '
            "or the same names with _FILE behind, each naming a file",
        )
    warnings = tuple(found.warning for found in (name, secret) if found.warning)
    return Credentials(method, name.value, secret.value, warnings)


def notify_url(how: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """
    Where somebody is told of a run: the value of its variable, or of the file that it names.

    Args:
        how: A key of `NOTIFY_VARIABLES`.
        environ: The variables.

    Returns:
        The value, and what is wrong with it; one of them is empty.
    """
    found = _secret(NOTIFY_VARIABLES[how], environ)
    return found.value, found.problem


def secret_states(job: Job, environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """For each secret that the job needs its variable, its state in a few words, and where it comes from."""
    variables = SECRET_VARIABLES[job.api.auth.method]
    return [(variable, found.state, found.origin) for variable in variables for found in [_secret(variable, environ)]]


def take_secrets(table: dict[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """
    Take out of a job file's tree every key that looks like a secret, so that nothing further can show its value.

    Yields:
        The dotted key, and what is wrong with it.
    """
    for name, value in list(table.items()):
        key = f"{place}{quoted(name)}"
        if _LOOKS_SECRET.search(name.lower().replace("-", "_")) and name not in _KNOWN:
            del table[name]
            yield key, "looks like a secret, and a job file must hold none"
        elif isinstance(value, dict):
            yield from take_secrets(value, f"{key}.")


@dataclass(frozen=True, slots=True)
class _Secret:
    state: str
    origin: str = ""
    value: str = field(default="", repr=False)
    problem: str = ""
    warning: str = ""


def _secret(variable: str, environ: Mapping[str, str]) -> _Secret:
    """One secret, or what is wrong with it. Names variables only: a path might be the secret itself by mistake."""
    in_file = f"{variable}_FILE"
    if variable in environ and in_file in environ:
        return _Secret("given twice", variable, problem=f"{variable} and {in_file} are both set; keep one")
    if variable in environ:
        return _checked(variable, environ[variable], "set (environment)")
    if in_file not in environ:
        return _Secret("missing", problem=f"{variable} is not set")
    path = Path(environ[in_file])
    try:
        text = path.read_bytes().decode("utf-8-sig")
        open_to_all = path.stat().st_mode & stat.S_IROTH
    except (OSError, ValueError) as refused:
        why = refused.strerror if isinstance(refused, OSError) else "it is not UTF-8 text"
        return _Secret("unreadable", in_file, problem=f"{in_file} names a file that cannot be read: {why}")
    warning = f"everybody on this machine can read the file that {in_file} names; chmod 600 it" if open_to_all else ""
    return _checked(in_file, re.sub(r"\r?\n\Z", "", text), "set (file)", warning)


def _checked(origin: str, value: str, state: str, warning: str = "") -> _Secret:
    if not value:
        return _Secret("empty", origin, problem=f"{origin} gives an empty value")
    if not value.isprintable():
        problem = f"{origin} gives a value with a line break or another sign that no secret has"
        return _Secret("unusable", origin, problem=problem)
    return _Secret(state, origin, value, warning=warning)
