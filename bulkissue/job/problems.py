"""
What is wrong with a job file, in words: which key, which value, and what to try.

Must never show a value that may be a secret: none of `[api.auth]`, of an unknown key, or where a table belongs.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import ErrorDetails

from bulkissue.job.actions import ACTIONS, Action
from bulkissue.job.model import KEYS, SETTINGS, AttributionSection, TargetSection, at

_MISSING_HINTS = {
    "config_version": "; write config_version = 1 at the top",
    "api.base_url": "; set it here or as BULKISSUE_BASE_URL",
    "job.action": f"; it is one of {', '.join(Action)}",
}


def explained(error: ErrorDetails) -> tuple[str, str]:
    """A pydantic error as dotted key and a sentence of ours."""
    parts = [str(part) for part in error["loc"]]
    for length in range(1, len(parts) + 1):  # pydantic adds list places and the tags of a union's members
        if (key := ".".join(parts[:length])) in SETTINGS:
            return key, _sentence(error, key)
    key = ".".join(map(quoted, parts))
    if error["type"] == "extra_forbidden":
        return key, _stranger(parts, error["input"])
    if error["type"] == "missing":
        return key, f"the table [{key}] is missing"
    return key, f"must be a table, written [{key}]"


def _sentence(error: ErrorDetails, key: str) -> str:
    value, given = error["input"], error.get("ctx", {})
    hidden = (key.startswith("api.auth.") and key != "api.auth.method") or (
        key == "api.base_url" and isinstance(value, str) and any(sign in value for sign in "@?#")
    )
    subject = "the value" if hidden else shown(value)
    kind = error["type"]
    if kind == "missing":
        return "is missing" + _MISSING_HINTS.get(key, "")
    if key == "target.promotion_id":
        return f"{subject} is not a promotion's id: a whole number above 0, for cart a text in quotes"
    if kind == "value_error":
        return f"{subject} {given['error']}"
    if kind == "int_type":
        digits = isinstance(value, str) and value.strip().isdecimal()
        return f"{subject} is not a whole number" + ("; write it without quotes" if digits else "")
    if kind == "float_type":
        return f"{subject} is not a number"
    if kind == "bool_type":
        return f"{subject} is neither true nor false"
    if kind == "string_type":
        return f"{subject} is not text" + ("" if isinstance(value, dict | list) else "; put it in quotes")
    if kind == "list_type":
        return f"{subject} is not a list; put it in [ ]"
    if kind in {"enum", "literal_error"}:
        options = re.findall(r"'([^']+)'", given["expected"])
        if not options:
            return f"{subject} is not a version this program reads; it reads 1"
        return f"{subject} is none of {', '.join(options)}{nearest(value, options)}"
    if kind == "greater_than":
        return f"{subject} is not above {given['gt']:g}"
    if kind == "greater_than_equal":
        return f"{subject} is below {given['ge']:g}"
    if kind == "less_than_equal":
        return f"{subject} is above {given['le']:,}".removesuffix(".0")
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"{subject} is longer than {given['max_length']} characters"
    if kind == "string_pattern_mismatch":
        return f"{subject} is not {SETTINGS[key].description}"
    return f"{subject} will not do: {error['msg']}"


def _stranger(parts: list[str], value: object) -> str:
    """What to say of a key that no job file knows. Its value may be anything, so it is not shown."""
    *tables, name = parts
    table = ".".join(tables)
    if name == "lanes":  # its name before the first release
        return "is called api.limits.concurrency now"
    where = f"is not a key of [{table}]" if table else "is not a key of a job file"
    if table == "input.columns" and f"{table}.{value}" in KEYS:
        return f"{where}; write it the other way round: {value} = {shown(name)}"
    known = {key.rpartition(".")[2]: key for key in KEYS}
    here = [each for each, key in known.items() if key.rpartition(".")[0] == table]
    close = [name] if name in known else difflib.get_close_matches(name.lower(), here, n=1)
    close = close or difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)
    return f"{where}; did you mean {known[close[0]]}?" if close else where


def nearest(text: object, known: Iterable[str]) -> str:
    """A question after the known name that is nearest to this text, to stand at a sentence's end; or nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(text.lower(), names, n=1) if isinstance(text, str) else []
    return f"; did you mean {names[close[0]]}?" if close else ""


def disagreements(tree: dict[str, Any], refused: set[str]) -> Iterator[tuple[str, str]]:
    """
    What is wrong between settings that are each sound by themselves.

    Args:
        tree: The job file as it was read.
        refused: The dotted keys already found unsound.

    Yields:
        The dotted key, and what is wrong with it.
    """

    def sound(key: str) -> bool:
        return not any(key == bad or key.startswith(f"{bad}.") for bad in refused)

    action = at(tree, "job.action")
    if action is not None and sound("job.action") and sound("target"):
        for name, text in _target_disagreements(Action(action), at(tree, "target")):
            if sound(f"target.{name}"):
                yield f"target.{name}", text
    code, region = at(tree, "identifiers.country_code"), at(tree, "identifiers.mobile.region")
    if isinstance(region, str) and sound("identifiers.mobile") and code is not None:
        yield "identifiers.country_code", "goes without [identifiers.mobile] region, which knows the country's code"
    if region is None and at(tree, "identifiers.mobile.invalid") == "warn":
        yield "identifiers.mobile.invalid", "means nothing without region"
    if at(tree, "api.auth.method") == "basic":
        for name in AttributionSection.model_fields:
            if at(tree, f"api.attribution.{name}") is not None:
                yield f"api.attribution.{name}", 'the service takes attribution only with [api.auth] method = "oauth"'


def _target_disagreements(action: Action, target: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts = ACTIONS[action]
    for name in TargetSection.model_fields:
        if name in target and name not in facts.keys:
            users = ", ".join(other for other in Action if name in ACTIONS[other].keys)
            yield name, f"{action} does not use it; it is for {users}"
    for name in facts.needs:
        if name not in target:
            yield name, f"is missing; {action} needs it{_how(action, name)}"
    if facts.either and not any(name in target for name in facts.either):
        yield facts.either[0], f"is missing; {action} needs {', '.join(facts.either)}, or both"
    promotion = target.get("promotion_id")
    if promotion is None or "promotion_id" not in facts.keys:
        return
    if not facts.text_id and not isinstance(promotion, int):
        yield "promotion_id", f"{shown(promotion)} is text; {action} needs the number, without quotes"
    elif facts.text_id and not isinstance(promotion, str):
        yield "promotion_id", f"{shown(promotion)} is a number; {action} needs text, in quotes"
    elif facts.text_id and not re.fullmatch(r"[A-Za-z0-9_-]+", promotion):
        yield "promotion_id", f"{shown(promotion)} is not made of letters, digits, - and _"  # it is part of a path


def _how(action: Action, name: str) -> str:
    """How a missing promotion id is to be written."""
    if name != "promotion_id":
        return ""
    if ACTIONS[action].text_id:
        return ", as text in quotes"
    return ", the number, as its endpoint takes no promo_identifier"


def shown(value: object, clip: int | None = 60) -> str:
    """A value as a job file would write it, without control characters, clipped."""
    match value:
        case None:
            return "not set"
        case bool():
            return str(value).lower()
        case str():
            text = json.dumps(value, ensure_ascii=not value.isprintable())
        case list():
            text = f"[{', '.join(shown(each) for each in value)}]"
        case dict():
            return "a table"
        case _:
            text = str(value)
    return text if clip is None or len(text) <= clip else f"{text[: clip - 1]}…"


def quoted(name: str) -> str:
    """A key's name as a job file would write it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else shown(name)
