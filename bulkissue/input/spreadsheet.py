"""
What a spreadsheet does to a ledger on its way back: cells that it changed are told from cells that a person changed.

Pure. It must never restore by a guess: the original is taken only where the cell is exactly what a spreadsheet makes
of it.
"""

import re
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, InvalidOperation
from itertools import product

import polars as pl

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:([, .'\u00a0\u202f])[0-9]{3})(?:\1[0-9]{3})*")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
#: Digits that a spreadsheet keeps of a number.
_KEPT_DIGITS = 15
_NAMES_OF_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES_OF_MONTHS, start=1)}
_DATE_PARTS = re.compile(r"[0-9]+|[A-Za-z]+")
_DATE = re.compile(r"(?:[0-9]{1,4}|[A-Za-z]{3,9})(?:[-/. ,]+(?:[0-9]{1,4}|[A-Za-z]{3,9})){1,2}(?: 0?0:00(?::00)?)?")
#: What programs that know no byte-order mark take UTF-8 for.
_LEGACY = ("cp1252", "latin-1", "mac_roman")


def made_of(original: str, cell: str) -> bool:
    """Whether a cell is what a spreadsheet makes of the original text; also where it is the same text."""
    if cell.strip() == original.strip() or _one_line(cell) == _one_line(original):
        return True
    if original.startswith("'") and original[1:] == cell:
        return True  # the mark that keeps a text from being read
    if original.casefold() == cell.casefold() and cell.casefold() in {"true", "false"}:
        return True
    return _same_number(original.strip(), cell.strip()) or _same_date(original, cell) or _other_letters(original, cell)


def _one_line(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _same_number(original: str, cell: str) -> bool:
    """Whether the cell shows the number that a spreadsheet reads in the original."""
    text = original.removeprefix("+")
    read = _number(text) or _number(_without_groups(text))
    shown = _number(cell) or _number(cell.replace(",", ".", 1)) or _number(_without_groups(cell))
    if read is None or shown is None or _LEADING_ZERO.match(cell):
        return False  # no spreadsheet puts zeros in front
    kept = _rounded(read, _KEPT_DIGITS)
    if shown in {read, *kept}:
        return True
    mantissa, exponent, _ = cell.upper().partition("E")
    if not exponent:
        return False
    digits = sum(char.isdigit() for char in mantissa)
    return any(shown in _rounded(one, digits) for one in kept)


def _number(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def _without_groups(text: str) -> str:
    found = _GROUPED.fullmatch(text)
    return text.replace(found[1], "") if found else text


def _rounded(number: Decimal, digits: int) -> set[Decimal]:
    """To so many digits; programs differ in what they do with a half."""
    if not number or digits < 1:
        return {number}
    place = Decimal((0, (1,), number.adjusted() - digits + 1))
    try:
        return {number.quantize(place, rounding) for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN)}
    except InvalidOperation:
        return set()


def _same_date(original: str, cell: str) -> bool:
    """Whether both can be read as one day, by any order of day, month and year; `1-2` comes back as `01-Feb`."""
    ours, theirs = _days(original), _days(cell)
    return any(
        (month, day) == (other_month, other_day) and (year == other_year or not year or not other_year)
        for (year, month, day), (other_year, other_month, other_day) in product(ours, theirs)
    )


def _days(text: str) -> set[tuple[int, int, int]]:
    """Every (year, month, day) that a text may mean; a part that is not there is 0."""
    if not _DATE.fullmatch(text.strip()):
        return set()
    parts = _DATE_PARTS.findall(text.partition(" 00:00")[0].partition(" 0:00")[0])
    numbers: list[int] = []
    month = 0
    for part in parts:
        if part.isdigit():
            numbers.append(int(part))
        elif part[:3].lower() in _MONTHS and not month:
            month = _MONTHS[part[:3].lower()]
        else:
            return set()
    found = set()
    if month and len(numbers) == 1:
        found |= {(0, month, numbers[0]), (_year(numbers[0]), month, 0)}
    elif month and len(numbers) == 2:
        found |= {(_year(numbers[1]), month, numbers[0]), (_year(numbers[0]), month, numbers[1])}
    elif len(numbers) == 2:
        one, two = numbers
        found |= {(0, one, two), (0, two, one), (_year(one), two, 0), (_year(two), one, 0)}
    elif len(numbers) == 3:
        one, two, three = numbers
        found |= {(_year(three), one, two), (_year(three), two, one), (_year(one), two, three)}
    return {(year, mon, day) for year, mon, day in found if 1 <= mon <= 12 and 0 <= day <= 31}


def _year(number: int) -> int:
    return number + (2000 if number < 30 else 1900) if number < 100 else number


def _other_letters(original: str, cell: str) -> bool:
    """Whether the cell is the original's UTF-8 taken for a legacy encoding, or what such an encoding left of it."""
    if original.isascii():
        return False
    for encoding in _LEGACY:
        if original.encode("utf-8").decode(encoding, errors="replace") == cell:
            return True
        if original.encode(encoding, errors="replace").decode(encoding) == cell:
            return True
    return False


def changed_cells(pairs: pl.DataFrame) -> pl.DataFrame:
    """
    Those pairs of an original and another cell that a spreadsheet made.

    Args:
        pairs: `original` and `cell`, String.

    Returns:
        The same columns.
    """
    kept = [made_of(original, cell) for original, cell in pairs.select("original", "cell").iter_rows()]
    return pairs.filter(pl.Series(kept, dtype=pl.Boolean))
