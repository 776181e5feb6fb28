"""
Words from outside on the page: names, the service's words, a person's evidence.

What goes to the template is made here, so that no identifier that stands in such words is shown. Pure.
"""

import re
import unicodedata
from collections.abc import Iterable

from markupsafe import Markup

#: An email address; and a number as long as a customer's id or mobile, where it is not a moment or part of a run's id.
_EMAIL = re.compile(r"[^\s@,;:<>()\"']+@([^\s@,;:<>()\"']+)")
_NUMBER = re.compile(r"(?<![\w.])(?!\d{4}-\d\d-\d\d\b)\+?\d(?:[ -]?\d){6,}(?!\w)")
_MASK = "…"
_LEAST_HIDDEN = 4
#: Of a number so many digits are shown at each end, where that is less than half of it.
_SHOWN = 2


def visible(words: str) -> str:
    """The words with characters that nobody can see, or that lead the eye astray, made visible."""
    return "".join("\ufffd" if unicodedata.category(char) in {"Cc", "Cs", "Co", "Cn"} else char for char in words)


def called(words: str) -> Markup:
    """A name from outside (a job's, a file's) as it is, apart from our words so that it cannot turn them around."""
    return Markup("<bdi>{}</bdi>").format(visible(" ".join(words.split())))


def said(words: str, identifiers: Iterable[str] = ()) -> Markup:
    """
    What somebody, or the service, said: as a name, with email addresses and long numbers masked.

    Args:
        words: What was said.
        identifiers: Those of the rows it is about; masked wherever they stand in it.
    """
    for identifier in sorted(identifiers, key=len, reverse=True):
        if len(identifier) >= _LEAST_HIDDEN:
            words = re.sub(re.escape(identifier), lambda found: _masked(found[0]), words, flags=re.IGNORECASE)
    words = _EMAIL.sub(rf"{_MASK}@\1", words)
    return called(_NUMBER.sub(lambda found: _masked(found[0]), words))


def _masked(value: str) -> str:
    _, at, domain = value.rpartition("@")
    if at:
        return f"{_MASK}@{domain}"
    value = value.lstrip("+")
    return f"{value[:_SHOWN]}{_MASK}{value[-_SHOWN:]}" if len(value) > 4 * _SHOWN else _MASK
