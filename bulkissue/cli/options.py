"""Options that several commands have, each written once."""

from pathlib import Path

import click

JOB = click.argument("job", metavar="JOB.toml", type=click.Path(path_type=Path))
RUN = click.argument("run_name", metavar="RUN")
RUNS_DIR = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where RUN is looked for.",
)
ENVIRONMENT = click.option("--environment", metavar="NAME", help="Put [environments.NAME] of the job file over [api].")
YES = click.option("--yes", is_flag=True, help="Answer every question with yes.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
QUIET = click.option("--quiet", is_flag=True, help="Print nothing unless a person is needed, and log only warnings.")
