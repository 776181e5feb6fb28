"""
The five fields of a cron line: checked, and told to programs that write times in another way.

Takes only what every cron program, systemd and Kubernetes read alike. It must never pass a line that two of them would
start at different times.
"""

import re
from calendar import monthrange
from dataclasses import dataclass

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|[0-9a-z]+)(?:-(?P<last>[0-9a-z]+))?(?:/(?P<step>[0-9]+))?")
_LEAP_YEAR = 2024


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int:
        if text in self.names:
            return self.names.index(text) + self.least
        if not text.isdecimal() or not self.least <= int(text) <= self.most:
            raise ValueError(f"is no time: {self.name} {text} is not between {self.least} and {self.most}")
        return int(text)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),
)

#: The values of a field; None for every one, written `*`.
Values = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Cron:
    """When to start. As cron has it, a day fits where its date or its weekday does, if both are given."""

    minutes: Values
    hours: Values
    days: Values
    months: Values
    weekdays: Values

    def text(self) -> str:
        """The five fields in numbers, Sunday being 0, as every cron program and Kubernetes take them."""
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(_joined(values, "-") for values in fields)

    def calendars(self) -> list[str]:
        """The same times as systemd's calendar expressions, of which any one has to fit."""
        clock = f"{_joined(self.hours, '..')}:{_joined(self.minutes, '..')}:00"
        month = _joined(self.months, "..")
        on_date = f"*-{month}-{_joined(self.days, '..')} {clock}"
        if self.weekdays is None:
            return [on_date]
        names = ",".join(_WEEKDAYS[day].title() for day in self.weekdays)
        on_weekday = f"{names} *-{month}-* {clock}"
        return [on_weekday] if self.days is None else [on_date, on_weekday]


def parse(text: str) -> Cron:
    """
    A cron line's five fields: minute, hour, day of the month, month, day of the week.

    Raises:
        ValueError: They are not five, or say no time, or one that programs read differently; to stand behind the value.
    """
    written = text.lower().split()
    if len(written) != len(_FIELDS):
        raise ValueError('has not the five fields of cron: minute hour day month weekday, such as "0 6 * * *"')
    minutes, hours, days, months, weekdays = (
        _values(part, field) for part, field in zip(written, _FIELDS, strict=True)
    )
    if weekdays is not None:
        weekdays = tuple(sorted({day % 7 for day in weekdays}))  # Kubernetes knows no 7
    if days is not None and weekdays is not None and "*" in written[2] + written[4]:
        raise ValueError(
            "has days of the month and of the week, one of them in steps of *, which cron programs read differently; "
            "list the days instead"
        )
    if weekdays is None and not _some_day(days, months):
        raise ValueError("names a day that no month has")
    return Cron(minutes, hours, days, months, weekdays)


def checked(text: str) -> str:
    """The text itself, for the job file; raises as `parse` does."""
    parse(text)
    return text


def _values(text: str, field: _Field) -> Values:
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"is no time: {field.name} {part} is none of 5, 1-5, */15, 10-40/10 and lists of these")
        step = int(match["step"] or 1)
        if match["first"] == "*":
            if match["last"] is not None or step == 0 or step > field.most:
                raise ValueError(f"is no time: {field.name} {part}")
            if step == 1:
                if text != part:
                    raise ValueError(f"is no time: {field.name} {text} lists * beside others")
                return None
            found.update(range(field.least, field.most + 1, step))
            continue
        first = field.number(match["first"])
        last = first if match["last"] is None else field.number(match["last"])
        if match["step"] is not None and match["last"] is None:
            raise ValueError(f"is no time: {field.name} {part} has a step without a range")
        if last < first or step == 0:
            raise ValueError(f"is no time: {field.name} {part} ends before it begins")
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))


def _some_day(days: Values, months: Values) -> bool:
    longest = max(monthrange(_LEAP_YEAR, month)[1] for month in months or range(1, 13))
    return days is None or min(days) <= longest


def _joined(values: Values, to: str) -> str:
    """Values as a list, with a range where three or more follow each other without a gap."""
    if values is None:
        return "*"
    if len(values) > 2 and values == tuple(range(values[0], values[-1] + 1)):
        return f"{values[0]}{to}{values[-1]}"
    return ",".join(map(str, values))
