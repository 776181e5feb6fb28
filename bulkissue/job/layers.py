"""
What a job file's tree means before it is checked: one of its environments over `[api]`, and `${…}` in a few places.

Pure. It must never put a secret into a setting, nor take a variable that is not set for an empty text.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from bulkissue.job.credentials import SECRET_NAMES

ENVIRONMENTS = "environments"
#: Where `${NAME}` and `${date}` are understood.
_EXPANDED = ("job.name", "job.occasion", "input.paths", "output.runs_dir", "output.state_dir", "metrics.textfile")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")

Problem = tuple[str, str]


def choose(tree: dict[str, Any], name: str | None) -> Iterator[Problem]:
    """
    Take the environments out of a job file's tree, and put one of them over `[api]`.

    Args:
        tree: The job file; changed.
        name: Which; None for what `[api]` says.

    Yields:
        What is wrong: a key, and a sentence.
    """
    found = tree.pop(ENVIRONMENTS, {})
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        yield ENVIRONMENTS, "must be tables, as [environments.staging]"
        return
    if name is None:
        return
    if name not in found:
        there = f"there are {', '.join(found)}" if found else "the job file has no [environments.…]"
        yield ENVIRONMENTS, f"has no {name}; {there}"
        return
    api = tree.setdefault("api", {})
    if isinstance(api, dict):
        api["environment"] = name
        _lay_over(api, found[name])


def _lay_over(under: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            _lay_over(under[key], value)
        else:
            under[key] = value


def expand(tree: dict[str, Any], environ: Mapping[str, str], today: date) -> Iterator[Problem]:
    """
    Put the values of variables, and the date, where `${…}` stands in names, paths and the occasion.

    Args:
        tree: The job file; changed.
        environ: The variables.
        today: For `${date}`, as 2026-11-27.

    Yields:
        What is wrong: a key, and a sentence.
    """
    for table, values in list(tree.items()):
        if isinstance(values, dict):
            yield from _expand(values, f"{table}.", environ, today)


def _expand(values: dict[str, Any], place: str, environ: Mapping[str, str], today: date) -> Iterator[Problem]:
    for name, value in list(values.items()):
        key = f"{place}{name}"
        if isinstance(value, dict):
            yield from _expand(value, f"{key}.", environ, today)
            continue
        texts = value if isinstance(value, list) else [value]
        named = [one for text in texts if isinstance(text, str) for one in _REFERENCE.findall(text)]
        if not named:
            continue
        if key not in _EXPANDED:
            yield key, f"has ${{…}}, which is understood in {', '.join(_EXPANDED)} only"
            continue
        problems = [problem for one in named if (problem := _problem(one, environ))]
        yield from ((key, problem) for problem in problems)
        if not problems:
            done = [
                _REFERENCE.sub(lambda found: _value(found[1], environ, today), text) if isinstance(text, str) else text
                for text in texts
            ]
            values[name] = done if isinstance(value, list) else done[0]


def _problem(name: str, environ: Mapping[str, str]) -> str:
    if name == "date":
        return ""
    if name in SECRET_NAMES:
        return f"${{{name}}} is a secret, and would stand in names and paths"
    return "" if environ.get(name) else f"${{{name}}} is not set in the environment"


def _value(name: str, environ: Mapping[str, str], today: date) -> str:
    return today.isoformat() if name == "date" else environ[name]
