"""
Named places where a test may have the process killed, to prove that any instant will do.

Does nothing unless `BULKISSUE_CRASH_AT` names a place, as `intent.noted` or, at its third passing,
`intent.noted:3`. Then the process gets SIGKILL, as from the kernel or a power cut: nothing is tidied up.
"""

import os
import signal
from collections import Counter

#: Every place, in the order a run passes them.
PLACES = (
    "state.opened",
    "folder.made",
    "input.taken",
    "plan.drawn",
    "number.taken",
    "manifest.written",
    "run.registered",
    "journal.made",
    "intent.noted",
    "answer.received",
    "answer.noted",
    "sending.ended",
    "ledgers.written",
    "history.written",
    "journal.closed",
    "manifest.finished",
    "run.settled",
)

#: Where history of an early version has been digested.
PLACE_OF_DIGESTING = "history.digested"
#: Those of `state rebuild`.
PLACES_OF_REBUILD = ("rebuild.registered", "rebuild.recovered", "rebuild.counted")

#: Those of `purge` and `erase`.
PLACES_OF_ERASURE = ("erase.planned", "erase.forgotten", "erase.told")
PLACES_OF_REDACTION = ("redaction.copied", "redaction.made", "redaction.whole", "redaction.moved")

_WANTED, _, _NUMBER = os.environ.get("BULKISSUE_CRASH_AT", "").partition(":")
_passed: Counter[str] = Counter()


def reached(place: str) -> None:
    """The program has come to `place`, one of the above."""
    if place != _WANTED:
        return
    _passed[place] += 1
    if _passed[place] == int(_NUMBER or 1):
        os.kill(os.getpid(), signal.SIGKILL)
