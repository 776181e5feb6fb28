"""
What was found: lines, bars and sections, and how they are shown.

Values and text only; nothing here measures anything.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from measure import Cost, median

MILLION = 1_000_000
_HEAD = ("rows", "cpu s", "cpu s/M rows", "ratio", "wall s", "rows/s", "peak MiB", "server cpu s/M")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: who, over how many rows, and what each repeat cost; or why there is none."""

    name: str
    rows: int = 0
    costs: list[Cost] = field(default_factory=list)
    note: str = ""

    @property
    def cost(self) -> Cost:
        """The median."""
        return median(self.costs)

    @property
    def per_million(self) -> float:
        """Processor seconds per million rows."""
        return self.cost.processor / self.rows * MILLION

    def cells(self, beside: float | None) -> list[str]:
        """The line as text, under `_HEAD`; `beside` is what the section's first line costs per million rows."""
        if not self.costs:
            return [""] * len(_HEAD)
        cost, rows = self.cost, self.rows
        return [
            f"{rows:,}" if rows else "",
            f"{cost.processor:.2f}",
            f"{self.per_million:.2f}" if rows else "",
            f"{self.per_million / beside:.2f}" if rows and beside else "",
            f"{cost.wall:.2f}",
            f"{rows / cost.wall:,.0f}" if rows else "",
            f"{cost.peak:,.0f}",
            f"{cost.server / rows * MILLION:.2f}" if rows and cost.server else "",
        ]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the project: what, measured, and at most or at least how much."""

    what: str
    value: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """Whether it is met."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(slots=True)
class Section:
    """What one part of the benchmark found. The ratios of its lines are to the first one."""

    title: str
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """As people read it."""
        first = next((line for line in self.lines if line.costs and line.rows), None)
        beside = first.per_million if first else None
        rows = [("", *_HEAD, ""), *((line.name, *line.cells(beside), line.note) for line in self.lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        shown = [
            "  ".join(
                [name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:-1], strict=True)), note]
            )
            for name, *cells, note in rows
        ]
        body = [*(shown if self.lines else []), *([""] if self.lines and self.notes else []), *self.notes]
        return "\n".join(["", self.title, "", *(f"  {line}".rstrip() for line in body)])

    def document(self) -> dict[str, Any]:
        """As programs read it."""
        return {
            "title": self.title,
            "lines": [
                {
                    "name": line.name,
                    "rows": line.rows,
                    "note": line.note,
                    "median": asdict(line.cost) if line.costs else None,
                    "repeats": [asdict(cost) for cost in line.costs],
                }
                for line in self.lines
            ],
            "bars": [{**asdict(bar), "ok": bar.ok} for bar in self.bars],
            "notes": self.notes,
        }


def verdicts(bars: Sequence[Bar]) -> str:
    """The bars, and whether they are met."""
    width = max((len(bar.what) for bar in bars), default=0)
    return "\n".join(
        f"  {bar.what:<{width}}  {bar.value:>8.2f} {bar.unit:<3}  {'at least' if bar.at_least else 'at most '} "
        f"{bar.bound:>6g} {bar.unit:<3}  {'ok' if bar.ok else 'MISSED'}"
        for bar in bars
    )
