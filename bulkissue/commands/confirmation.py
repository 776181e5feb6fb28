"""
Confirmation: whether a run may send, and the question that is put to a person.

It must never say yes by itself: where nobody consents, nothing is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bulkissue.errors import SettingsRefused, UsageRefused
from bulkissue.job.model import Job


@dataclass(frozen=True, slots=True)
class Confirmation:
    """
    Whether this run may send.

    Attributes:
        given: `--yes`, or the job is `unattended`.
        ask: Puts the question to a person; None where there is nobody to ask.
    """

    given: bool
    ask: Callable[[str], bool] | None = None

    def require_possible(self) -> None:
        """
        Refuse at once what nobody can confirmation to later.

        Raises:
            SettingsRefused: There is no terminal, and neither `--yes` nor `unattended`.
        """
        if not self.given and self.ask is None:
            raise SettingsRefused(
                "there is no terminal to ask on, and the job is not unattended: nothing was sent",
                hint="say --yes, or set unattended = true under [job]",
            )

    def obtain(self, question: str) -> None:
        """
        Ask, unless confirmation is given already.

        Raises:
            UsageRefused: The answer is no.
        """
        if not self.given and not (self.ask is not None and self.ask(question)):
            raise UsageRefused("not confirmed: nothing was sent")


def question(settings: Job, rows: int, requests: int, most: int) -> str:
    """What a person is asked before the first send; `most` rows stand in the largest batch."""
    return (
        f"Issue {settings.issues().describe()} to {rows} customers, in {requests} requests "
        f"to {settings.api.base_url}? One lost answer can make {most} of them unknown."
    )
