"""
The picture of the terminal in the README: a real run against the stand-in, with a bad moment, as it is to be seen.

    python docs/picture.py      writes docs/terminal.svg; the run is another one each time, so nothing checks it
"""

import io
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from terminal import Terminal  # noqa: E402 - from the tests

from bulkissue.sandbox import Fault, Options, start_thread  # noqa: E402

_COLUMNS = 100
_JOB = """\
config_version = 1
[job]
name = "diwali"
action = "earn"
[target]
program_id = 469
promotion_id = 69218
[input]
paths = ["members.csv"]
[identifiers]
default_source = "INSTORE"
[api]
base_url = "{url}"
environment = "production"
[api.limits]
requests_per_minute = 900
[guards]
max_failed_ratio = 1.0
"""


def main() -> None:
    """Run, look, and write what is seen."""
    with tempfile.TemporaryDirectory() as name, start_thread(Options(magic=True)) as service:
        folder = Path(name)
        rows = [f"91{9_986_000_000 + number},{'a@example.com' if number % 9 else 'nobody'}" for number in range(12_000)]
        (folder / "members.csv").write_text("\n".join(["mobile,email", *rows]))
        (folder / "job.toml").write_text(_JOB.format(url=service.base_url))
        service.order(Fault(kind="drop", nth=(20,)), Fault(kind="status", status=429, retry_after=2, nth=(60,)))
        environ = {"BULKISSUE_CLIENT_KEY": "key", "BULKISSUE_CLIENT_SECRET": "secret"}
        terminal = Terminal("run", "job.toml", "--yes", cwd=folder, columns=_COLUMNS, environ=environ)
        terminal.until("429")
        seen = _seen(terminal)
        terminal.interrupt()
        terminal.end()
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in seen:
        console.print(line)
    title = "bulkissue run jobs/diwali.toml"
    (ROOT / "docs" / "terminal.svg").write_text(console.export_svg(title=title), encoding="utf-8")


def _seen(terminal: Terminal) -> list[Text]:
    lines = []
    for number, shown in enumerate(terminal.screen.display):
        if not shown.strip():
            continue
        line = Text(no_wrap=True)
        for column, character in enumerate(shown.rstrip()):
            cell = terminal.screen.buffer[number][column]
            colour = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
            style = " ".join(part for part in ("bold" if cell.bold else "", _known(colour)) if part)
            line.append(character, style=style)
        lines.append(line)
    return lines


def _known(colour: str) -> str:
    return f"#{colour}" if len(colour) == 6 and all(char in "0123456789abcdef" for char in colour) else colour


if __name__ == "__main__":
    main()
