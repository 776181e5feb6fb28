"""
What the pages and the job file's schema take from the program itself, so that it is told in one place only.

    python docs/generate.py           writes the parts between `<!-- generated: NAME -->` and `<!-- end -->` of
                                      docs/*.md, docs/job.schema.json and docs/run.schema.json
    python docs/generate.py --check   changes nothing; names what is stale and exits 1

It must never touch what stands outside the markers, and never depend on the terminal it is called from.
"""

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import bulkissue.sandbox
from bulkissue.cli.main import cli
from bulkissue.commands.metrics import METRICS
from bulkissue.errors import EXIT_MEANINGS
from bulkissue.job.model import json_schema
from bulkissue.outcomes import REASONS
from bulkissue.sandbox.__main__ import main as sandbox
from bulkissue.sandbox.faults import Fault
from bulkissue.service.codes import CODES
from bulkissue.state.run_folder import manifest_schema

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

_HELP_WIDTH = 100
_NO_LIMIT = 10**9  # a maximum as high as this is there for the machine, not for the reader
_PART = re.compile(
    r"(?<=^<!-- generated: )(?P<name>[a-z ]+) -->\n(?P<text>.*?)(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE
)

#: The open families of reasons, which the table of closed ones cannot hold.
_OPEN_REASONS = {
    "api.<code>": "the service gave this error or warning code; `_bi_message` has its words",
    "http.<status>": "the service answered with this HTTP status and said nothing more exact",
}


def commands() -> str:
    """`--help` of every command, in the order of the list."""
    whole = _context(cli, "bulkissue")
    pages = [whole] + [_context(cli.commands[name], name, whole) for name in cli.list_commands(whole)]
    pages.append(_context(sandbox, "python -m bulkissue.sandbox"))
    return "\n".join(f"## `{page.command_path}`\n\n```text\n{page.get_help()}\n```\n" for page in pages)


def job_file() -> str:
    """A table of keys for each table of the job file, from its models."""
    schema = json_schema()
    parts = []
    for table, section in _sections(schema, schema, ""):
        about = "Above all tables." if not table else section.get("description", "")
        heading = f"**`[{table}]`** {about}" if table else f"**{about}**"
        needed = section.get("required", [])
        rows = [
            (f"`{key}`", _kind(info), _default(info, needed=key in needed), _sentence(info.get("description", "")))
            for key, info in section["properties"].items()
            if "$ref" not in info or "enum" in _resolved(schema, info)
            for info in [_resolved(schema, info)]
        ]
        if rows:
            parts.append(f"{heading}\n\n{_table(('key', 'value', 'if left out', 'meaning'), rows)}")
    return "\n".join(parts)


def reasons() -> str:
    """Every reason and what it says."""
    return _table(
        ("reason", "meaning"),
        [(f"`{reason}`", meaning) for reason, meaning in sorted({**REASONS, **_OPEN_REASONS}.items())],
    )


def codes() -> str:
    """The service's known codes and what they say."""
    return _table(("reason", "meaning"), [(f"`api.{code}`", words) for code, words in CODES.items()])


def metrics() -> str:
    """What Prometheus is told."""
    return _table(("metric", "meaning"), [(f"`{name}`", meaning) for name, meaning in METRICS.items()])


def exit_codes() -> str:
    """Every exit code and what it says."""
    return _table(("exit", "meaning"), [(str(int(code)), meaning) for code, meaning in EXIT_MEANINGS.items()])


def sandbox_values() -> str:
    """The stand-in's own description, from where it says what its endings and numbers do."""
    about = inspect.cleandoc(bulkissue.sandbox.__doc__ or "")
    _, start, rest = about.partition("Like the service, it is not idempotent")
    if not start:
        raise ValueError("the docstring of bulkissue.sandbox no longer says where its description begins")
    blocks = (start + rest).split("\n\n")
    return (
        "\n\n".join(f"```text\n{textwrap.dedent(block)}\n```" if block.startswith(" ") else block for block in blocks)
        + "\n"
    )


def faults() -> str:
    """What a fault's keys mean, from its description."""
    _, start, rest = inspect.cleandoc(Fault.__doc__ or "").partition("Attributes:\n")
    if not start:
        raise ValueError("the docstring of bulkissue.sandbox.faults.Fault no longer lists its attributes")
    return f"```text\n{textwrap.dedent(rest)}\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "job file": job_file,
    "reasons": reasons,
    "codes": codes,
    "metrics": metrics,
    "exit codes": exit_codes,
    "faults": faults,
    "sandbox": sandbox_values,
}


SCHEMAS: dict[Path, Callable[[], dict[str, Any]]] = {
    DOCS / "job.schema.json": json_schema,
    DOCS / "run.schema.json": manifest_schema,
}


def schema_texts() -> dict[Path, str]:
    """The schemas as they should be."""
    return {path: json.dumps(of(), indent=2, ensure_ascii=False) + "\n" for path, of in SCHEMAS.items()}


def filled() -> dict[Path, str]:
    """
    The pages that have generated parts, with these as they should be.

    Raises:
        ValueError: A part's markers are missing or stand twice, or name a part nobody makes.
    """
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    found = sorted(part["name"] for text in pages.values() for part in _PART.finditer(text))
    if found != sorted(PARTS):
        raise ValueError(f"the pages have the generated parts {found}, and should have {sorted(PARTS)}")
    return {
        path: _PART.sub(lambda part: f"{part['name']} -->\n\n{PARTS[part['name']]()}\n", text)
        for path, text in pages.items()
        if _PART.search(text)
    }


def stale() -> list[str]:
    """What is not as this script would write it, by name."""
    names = []
    for path, text in filled().items():
        now, then = (
            {part["name"]: part["text"] for part in _PART.finditer(one)}
            for one in (path.read_text(encoding="utf-8"), text)
        )
        page = path.relative_to(ROOT)
        names += [f"{page}, generated part: {name}" for name in now if now[name] != then[name]]
    for path, text in schema_texts().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            names.append(str(path.relative_to(ROOT)))
    return names


def main(arguments: list[str]) -> int:
    """Write, or with `--check` only look; the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not arguments:
        for path, text in (filled() | schema_texts()).items():
            path.write_text(text, encoding="utf-8")
        return 0
    names = stale()
    for name in names:
        print(f"stale: {name}", file=sys.stderr)
    if names:
        print("Try: make docs", file=sys.stderr)
    return 1 if names else 0


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """A command as if it were called, of a fixed width."""
    return command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=_HELP_WIDTH)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _sections(schema: dict[str, Any], section: dict[str, Any], table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table of the job file by its dotted name, and its schema; the file itself has no name."""
    yield table, section
    for name, info in section["properties"].items():
        below = _resolved(schema, info)
        if "properties" in below:
            yield from _sections(schema, below, f"{table}.{name}" if table else name)


def _resolved(schema: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A key's schema with what it refers to, its own words ruling."""
    if "$ref" not in info:
        return info
    referred: dict[str, Any] = schema["$defs"][info["$ref"].rpartition("/")[2]]
    return {**referred, **info}


def _kind(info: dict[str, Any]) -> str:
    """What kind of value a key takes, in words."""
    if "const" in info:
        return _shown(info["const"])
    if "enum" in info:
        return ", ".join(_shown(value) for value in info["enum"])
    if "anyOf" in info:
        return "; or ".join(_kind(option) for option in info["anyOf"] if option != {"type": "null"})
    match info["type"]:
        case "array":
            return f"list of {_kind(info['items'])}"
        case "boolean":
            return "`true`, `false`"
        case "integer":
            return f"whole number{_range(info)}"
        case "number":
            return f"number{_range(info)}"
        case _:
            longest = info.get("maxLength")
            return f"text, at most {longest} characters" if longest else "text"


def _range(info: dict[str, Any]) -> str:
    above, least, most = info.get("exclusiveMinimum"), info.get("minimum"), info.get("maximum")
    if most is None or most >= _NO_LIMIT:
        return f", above {above:g}" if above is not None else f", at least {least:g}"
    return f", above {above:g}, at most {most:,.15g}" if above is not None else f", {least:g} to {most:,.15g}"


def _default(info: dict[str, Any], *, needed: bool) -> str:
    if needed:
        return "needed"
    default = info.get("default")
    return "" if default is None else _shown(default)


def _sentence(text: str) -> str:
    # Some descriptions are also the end of a message, and begin small.
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _shown(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
