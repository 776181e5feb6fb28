"""
HTML as text that is known to be safe: what is not `Html` is escaped, so that forgetting is harmless.

Pure. It must never let text from outside (a job's or file's name, the service's words, a person's evidence) become
markup, or show an identifier that stands in it.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

#: An email address; and a number as long as a customer's id or mobile, where it is not a moment or part of a run's id.
_EMAIL = re.compile(r"[^\s@,;:<>()\"']+@([^\s@,;:<>()\"']+)")
_NUMBER = re.compile(r"(?<![\w.])(?!\d{4}-\d\d-\d\d\b)\+?\d(?:[ -]?\d){8,}(?!\w)")
_MASK = "…"
_LEAST_HIDDEN = 4


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything as markup: `Html` as it is, everything else escaped, with characters nobody can see made visible."""
    if isinstance(value, Html):
        return value
    seen = "".join("\ufffd" if unicodedata.category(char) in {"Cc", "Cs", "Co", "Cn"} else char for char in str(value))
    return Html(html.escape(seen))


def called(words: str) -> Html:
    """A name from outside (a job's, a file's) as it is, apart from our words so that it cannot turn them around."""
    return element("bdi", " ".join(words.split()))


def said(words: str, identifiers: Iterable[str] = ()) -> Html:
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
    return f"{value[:2]}{_MASK}{value[-2:]}" if len(value) > 2 * _LEAST_HIDDEN else _MASK


def element(tag: str, *inside: object, **attributes: object) -> Html:
    """An element; `class_` is `class`, `data_x` is `data-x`, and an attribute that is None is left out."""
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{listed}>{together(*inside)}</{tag}>")


def together(*parts: object) -> Html:
    """Parts one after the other."""
    return Html("".join(text(part) for part in parts))


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    foot: Sequence[object] | None = None,
    class_: str = "",
) -> Html:
    """
    A table.

    Args:
        header: Column names; on a narrow screen each cell carries its own.
        rows: Cells; the first of a row names it.
        numbers: The columns, from 0, that hold numbers.
        foot: A last row that sums up.
        class_: Of the table.
    """

    def line(cells: Sequence[object]) -> Html:
        return element(
            "tr",
            *(
                element(
                    "td",
                    element("span", cell) if cell else "",
                    class_="number" if place in numbers else None,
                    data_label=header[place],
                )
                if place
                else element("th", cell, scope="row")
                for place, cell in enumerate(cells)
            ),
        )

    head = element(
        "tr",
        *(
            element("th", column, scope="col", class_="number" if place in numbers else None)
            for place, column in enumerate(header)
        ),
    )
    return element(
        "table",
        element("thead", head),
        element("tbody", *(line(cells) for cells in rows)),
        element("tfoot", line(foot)) if foot is not None else "",
        class_=class_ or None,
    )
