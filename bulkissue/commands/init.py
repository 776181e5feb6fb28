"""
Init: a first job file for a file of customers, from five answers.

It must never write over a file, show a cell as it is, or put down a column that nobody chose.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from bulkissue.errors import InputRefused, UsageRefused
from bulkissue.input.column_mapping import SPELLINGS, find_roles, plain
from bulkissue.input.intake import read_table
from bulkissue.job.actions import ACTIONS, Action
from bulkissue.job.model import ColumnsSection, InputSection
from bulkissue.outcomes import IDENTIFIER_TYPES

_EXAMPLES = 3
_LOOKED_AT = 1000
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Looked:
    """
    What a file of customers looks like.

    Attributes:
        columns: Its columns, with a few masked examples each.
        guessed: Our role to a column, as far as its name says.
        trouble: Why the columns are not taken by themselves, if they are not.
    """

    columns: dict[str, list[str]]
    guessed: dict[str, str]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """
    What the person says.

    Attributes:
        name: The job's.
        action: What is to be done.
        target: Keys of `[target]`.
        columns: Our role to a column of the file.
        ignore: Columns that look like the service's own ids and are not.
        region: ISO country of mobiles without a country code; empty for none.
        source: The source each customer is registered with, where no column says it.
        base_url: Where the service is.
    """

    name: str
    action: Action
    target: Mapping[str, int | str]
    columns: Mapping[str, str]
    base_url: str
    ignore: tuple[str, ...] = ()
    region: str = ""
    source: str = "INSTORE"


def look(path: Path) -> Looked:
    """
    Look at the beginning of a file.

    Raises:
        InputRefused: It cannot be read as it stands; the message says what to set.
    """
    with tempfile.TemporaryDirectory(prefix="bulkissue-") as folder:
        table = read_table(path, path.name, InputSection(), Path(folder))
        rows = table.rows.select(table.names).head(_LOOKED_AT).collect()
    examples = {
        name: [masked(cell) for cell in rows[name].drop_nulls().unique(maintain_order=True).head(_EXAMPLES)]
        for name in table.names
    }
    try:
        return Looked(examples, find_roles(table.names, ColumnsSection(), path.name).columns)
    except InputRefused as trouble:
        return Looked(examples, {}, trouble.message)


def masked(cell: str) -> str:
    """A cell by its shape: its ends, the kind of each character between, and what stands behind an @."""
    name, at, domain = cell.partition("@")
    inner = "".join("9" if char.isdigit() else "x" if char.isalpha() else char for char in name[_SHOWN:-_SHOWN])
    shown = f"{name[:_SHOWN]}{inner}{name[-_SHOWN:]}" if len(name) > 3 * _SHOWN else "x" * len(name)
    return f"{shown}{at}{domain}"[:30]


def write(path: Path, source: Path, answers: Answers) -> None:
    """
    Write the job file.

    Args:
        path: Where; there must be nothing yet.
        source: The file of customers.
        answers: What the person said.

    Raises:
        UsageRefused: There is a file of that name.
    """
    try:
        relative = source.resolve().relative_to(path.resolve().parent).as_posix()
    except ValueError:
        relative = str(source.resolve())
    text = _HEAD.format(
        job=_line("name", answers.name),
        action=_line("action", answers.action.value),
        target="\n".join(_line(key, value) for key, value in answers.target.items()),
        paths=_line("paths", [relative]),
        ignore=_line("ignore", list(answers.ignore)) if answers.ignore else _NO_IGNORE,
        columns="\n".join(_line(role, column) for role, column in answers.columns.items()),
        source=_line("default_source", answers.source),
        region=_line("region", answers.region) if answers.region else _NO_REGION,
        base_url=_line("base_url", answers.base_url),
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as trouble:
        raise UsageRefused(f"{path} is there already", hint="name another with --out") from trouble


def roles_of(action: Action, found: Looked) -> list[str]:
    """The roles that a column may play: a type and a value where the file has both, else one for each type."""
    if found.guessed.keys() & {"identifier", "identifier_type"}:
        return ["identifier_type", "identifier", "source"]
    carried = [
        kind for kind in IDENTIFIER_TYPES if kind in {**ACTIONS[action].routes, **(ACTIONS[action].numbered or {})}
    ]
    return [*carried, "source"]


def to_ignore(found: Looked, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Columns that would be taken for the service's own ids, where the person says that they are not."""
    used = set(columns.values())
    return tuple(name for name in found.columns if name not in used and plain(name) in SPELLINGS["id"])


def _line(key: str, value: object) -> str:
    text = tomli_w.dumps({key: value}).strip()
    return " ".join(text.split()).replace("[ ", "[").replace(", ]", "]") if isinstance(value, list) else text


_NO_IGNORE = "# ignore = []                        # columns that are kept, and not used"
_NO_REGION = '# region = "IN"                      # ISO country of mobiles without a country code'
_HEAD = """\
# Made by bulkissue init. docs/job-file.md explains every key; `bulkissue check` shows what is in effect.
config_version = 1

[job]
{job}
{action}
# occasion = "2026-11"               # issue the same target once more, on purpose
# unattended = true                  # may send without --yes where nobody can be asked, as under cron

[target]
{target}

[input]
{paths}
{ignore}

[input.columns]
{columns}

[identifiers]
{source}

[identifiers.mobile]
{region}

[api]
{base_url}
# environment = "production"         # part of the target; the host if left out

[api.limits]
# requests_per_minute = 1000         # what the key may send
"""
