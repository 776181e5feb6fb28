"""The command for a first job: init."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkissue.cli.screen import Screen
from bulkissue.errors import ExitCode

if TYPE_CHECKING:
    from bulkissue.commands.init import Looked
    from bulkissue.job.actions import Action

_NONE = "-"


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The job file; FILE.toml if left out.")
def init(source: Path, out: Path | None) -> int:
    """
    Make a first job file for a file of customers.

    Looks at FILE, asks five questions (what, of which promotion, which column is what, which country, where), writes
    the job file, and ends with what a run would do. Sends nothing.
    """
    from bulkissue.cli import summary
    from bulkissue.commands import init as first_job
    from bulkissue.commands.preparation import Choices, preview
    from bulkissue.job.actions import Action
    from bulkissue.job.loading import load

    screen = Screen(as_json=False, quiet=False)
    path = out or source.with_suffix(".toml")
    if path.exists():
        raise click.UsageError(f"{path} is there already; name another with --out")
    found = first_job.look(source)
    rows = [(name, ", ".join(examples)) for name, examples in found.columns.items()]
    summary.print_table(screen.err, ("column", "examples, masked"), rows)
    if found.trouble:
        screen.say(found.trouble)
    kinds = click.Choice([one.value for one in Action])
    action = Action(click.prompt("1. What every customer gets", type=kinds, default="earn", err=True))
    target = _target(action)
    columns = _columns(action, found)
    country = _NONE
    if columns.keys() & {"mobile", "identifier"}:
        country = _text("4. Country of mobiles without a country code, as IN or GB (- for none)", _NONE)
    origin = "INSTORE" if "source" in columns else _text("   Source that customers are registered with", "INSTORE")
    address = _text("5. Address of the service", "https://eu.api.example.com")
    answers = first_job.Answers(
        name=path.stem,
        action=action,
        target=target,
        columns=columns,
        base_url=address,
        ignore=first_job.to_ignore(found, columns),
        region="" if country == _NONE else country.upper(),
        source=origin,
    )
    first_job.write(path, source, answers)
    screen.say(f"{path} is written. What a run would do:")
    loaded = load(path, flags={}, environ=os.environ)
    summary.print_preview(screen.out, preview(loaded, Choices(), None, screen.watch()), loaded.job)
    screen.say(f"Next: bulkissue run {path} --sandbox rehearses it; run {path} --limit 5 sends the first five rows.")
    return ExitCode.OK


def _target(action: "Action") -> dict[str, int | str]:
    """What is issued: the keys of `[target]` that the action needs."""
    from bulkissue.job.actions import ACTIONS

    facts, told = ACTIONS[action], dict[str, int | str]()
    for key in facts.needs:
        text = facts.text_id and key == "promotion_id"
        value = click.prompt(f"2. {key}", type=click.STRING if text else click.IntRange(min=1), err=True)
        told[key] = str(value) if text else int(str(value))
    for place, key in enumerate(facts.either):
        needed = place == len(facts.either) - 1 and not told.keys() & set(facts.either)
        value = click.prompt(f"2. {key}", default=None if needed else _NONE, err=True)
        if value != _NONE:
            told[key] = int(value) if key == "promotion_id" and value.isdigit() else value
    return told


def _columns(action: "Action", found: "Looked") -> dict[str, str]:
    """Which column plays which role."""
    from bulkissue.commands.init import roles_of

    chosen: dict[str, str] = {}
    kinds = click.Choice([_NONE, *found.columns])
    for role in roles_of(action, found):
        column = click.prompt(
            f"3. Column of the {role.replace('_', ' ')}",
            type=kinds,
            default=found.guessed.get(role, _NONE),
            show_choices=False,
            err=True,
        )
        if column != _NONE:
            chosen[role] = column
    return chosen


def _text(question: str, default: str) -> str:
    return str(click.prompt(question, default=default, err=True)).strip()
