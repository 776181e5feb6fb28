"""Where things are said: the summary on standard output, everything else on standard error."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bulkissue.commands.confirmation import Confirmation
    from bulkissue.commands.session import Result, Watch


class Screen:
    """Where things are said: the summary on standard output, everything else on standard error."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        from rich.console import Console

        from bulkissue import logs
        from bulkissue.cli.progress import Progress

        self.as_json = as_json
        self.quiet = quiet
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else 120, markup=False)
        self.err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120, markup=False)
        logs.configure(quiet=quiet or sys.stderr.isatty())
        self._progress = Progress(self.err)
        click.get_current_context().call_on_close(self._progress.close)

    def say(self, text: str) -> None:
        """Tell the person or the log file."""
        if not self.quiet:
            self.err.print(text, soft_wrap=True)

    def environment(self, name: str, base_url: str) -> None:
        """Say where this goes; production in red."""
        if not self.quiet:
            style = "bold red" if "prod" in name.lower() else "bold"
            self.err.print(f"Environment {name}: {base_url}", style=style, soft_wrap=True)

    def document(self, content: dict[str, Any]) -> None:
        """Print the one JSON document."""
        self._progress.close()
        print(json.dumps(content, ensure_ascii=False))  # noqa: T201 - this is the output

    def result(self, result: "Result") -> int:
        """Print how a run ended; its exit code."""
        self._progress.close()
        from bulkissue.cli import json_output, summary

        if self.as_json:
            self.document(json_output.of_run(result))
        elif self.quiet:
            for line in summary.needs_a_person(result):
                self.out.print(line, soft_wrap=True)
        else:
            summary.print_run(self.out, result)
        return result.exit_code

    def confirmation(self, *, given: bool) -> "Confirmation":
        """Confirmation that is given, or can be asked for on a terminal."""
        from bulkissue.commands.confirmation import Confirmation

        can_ask = sys.stdin.isatty() and sys.stderr.isatty()
        return Confirmation(given, (lambda question: click.confirm(question, err=True)) if can_ask else None)

    def watch(self) -> "Watch":
        """Tell what is going on, unless quiet; with a live area on a terminal."""
        from bulkissue.cli import summary
        from bulkissue.commands.session import Watch

        if self.quiet:
            return Watch()
        return Watch(
            taken=lambda intake: summary.print_taken(self.err, intake),
            warned=self.say,
            planned=lambda drawn, _folder: self.say(summary.plan_lines(drawn)),
            sending=self._progress.tell,
            phase=self._progress.phase,
            asking=self._progress.ask,
        )
