"""
The page: `report.html` from what the other modules of this package have found, by one template and one style sheet.

Pure: no file but those two, no clock. The page has no script, network or fonts, and is to be read on a desk, on a
phone and on paper. Rows are named by file and number; the template must never be given an identifier: words from
outside pass through `masking`.
"""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from bulkissue.errors import EXIT_MEANINGS, ExitCode
from bulkissue.exchange import WHY_SLOWED
from bulkissue.job.target import Target, parse
from bulkissue.outcomes import LEDGER_OF, Ledger, Outcome
from bulkissue.results.report import figures, masking
from bulkissue.results.report.campaign import Campaign
from bulkissue.results.report.causes import Cause, meaning
from bulkissue.results.report.course import Course
from bulkissue.results.report.settled import Settled
from bulkissue.state.run_folder import Manifest

#: Said of an outcome's rows: what it means, and whether they may be sent again.
_MEANINGS: dict[Outcome, str] = {
    Outcome.SUCCEEDED: "each with the service’s own proof of issue, or settled with evidence",
    Outcome.FAILED: "refused by the service, or never got through; may be sent again",
    Outcome.REJECTED: "did not pass our validation; may be sent once mended",
    Outcome.NOT_ATTEMPTED: "their turn did not come; may be sent",
    Outcome.UNKNOWN: "sent, and no answer to trust: perhaps issued; not sent again until settled",
    Outcome.DUPLICATE: "the same customer stands earlier in this input; not sent",
    Outcome.ALREADY_ISSUED: "an earlier run issued this to the customer, or may have; not sent",
}
_FAILURE = [outcome for outcome in Outcome if LEDGER_OF[outcome] is Ledger.FAILURE]
_VERBS = {"enrol": "Enrol in", "earn": "Earn", "issue": "Issue", "cart": "Issue cart", "coupon": "Issue a coupon of"}
_KEPT = {
    "job.toml": "the job as it was in effect",
    "input.parquet": "the input as it was read",
    "plan.parquet": "what became of each row before sending",
}
_TIMES = {1: "once", 2: "twice"}
#: How many of each are listed; the rest is counted.
_MOST = {"causes": 60, "people": 20, "same": 20, "files": 100, "runs": 50, "sendings": 8}


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the page tells."""

    manifest: Manifest
    causes: Sequence[Cause]
    course: Course
    settled: Settled
    campaign: Campaign


def page(found: Findings) -> str:
    """The whole page; the same findings give the same text."""
    manifest = found.manifest
    target = parse(manifest.target)
    return _template().render(
        run=manifest,
        title=f"{masking.visible(manifest.job)}: {target.describe()} – run {manifest.run_id}",
        target=target,
        what=f"{_VERBS.get(manifest.action, manifest.action)} {_promotion(target)} in {target.environment}",
        promotion=_promotion(target),
        service=urlsplit(manifest.base_url).netloc,
        exit_code=ExitCode(manifest.exit_code if manifest.exit_code is not None else ExitCode.INTERNAL),
        counts=manifest.counts,
        total=sum(manifest.counts.get(outcome, 0) for outcome in Outcome),
        ledgers={f"{ledger}.csv": _rows_of(manifest.ledgers.get(f"{ledger}.csv", {})) for ledger in Ledger},
        read=[file.rows for file in manifest.inputs],
        causes=found.causes,
        unknown=[cause for cause in found.causes if cause.outcome is Outcome.UNKNOWN],
        settled=found.settled,
        people=_people(found.settled),
        course=found.course,
        campaign=found.campaign,
        kin={member.manifest.run_id for member in found.campaign.members},
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "called": masking.called,
        "said": masking.said,
        "words": figures.words,
        "duration": figures.duration,
        "clock": functools.partial(figures.clock, day=True),
        "moment": _moment,
        "rows": lambda count: _many(count, "row"),
        "many": _many,
        "number": lambda count: f"{count:,}",
        "share": figures.share,
        "named": _named,
        "rows_of": _rows_of,
        "found_to_be": _found_to_be,
        "why_slowed": WHY_SLOWED.__getitem__,
    }
    environment.globals |= {
        "outcomes": list(Outcome),
        "succeeded": Outcome.SUCCEEDED,
        "failed": Outcome.FAILED,
        "open": Outcome.UNKNOWN,
        "meanings": _MEANINGS,
        "ledger_of": LEDGER_OF,
        "not_issued_of": lambda counts: sum(counts.get(outcome, 0) for outcome in _FAILURE),
        "exit_meanings": EXIT_MEANINGS,
        "meaning": meaning,
        "kept": _KEPT,
        "most": _MOST,
        "sendings": _sendings,
        "outcome_bar": figures.outcome_bar,
        "throughput": figures.throughput,
        "answer_times": figures.answer_times,
        "bar_height": figures.BAR_HEIGHT,
        "plot_height": figures.PLOT_HEIGHT,
    }
    return environment.get_template("report.html.j2")


def _visible(value: Any) -> Any:
    """What every expression of the template passes: text from anywhere, with what nobody can see made visible."""
    return masking.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _promotion(target: Target) -> str:
    if target.series_id:
        return f"series {target.series_id}"
    return "promotion " + " / ".join(name for name in (target.promotion_id, target.promo_identifier) if name)


def _named(named: Sequence[tuple[str, object]], rows: int) -> Markup:
    """Examples by file and number, a file named once, and how many rows more there are."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for file, number in named:
        by_file[file].append(str(number))
    parts = [
        Markup("{} {} {}").format(masking.called(file), "row" if len(numbers) == 1 else "rows", ", ".join(numbers))
        for file, numbers in by_file.items()
    ]
    more = f" and {rows - len(named):,} more" if named and rows > len(named) else ""
    return Markup("; ").join(parts) + more


def _people(told: Settled) -> list[tuple[str, str]]:
    """Who has settled rows, and how many as what."""
    who: dict[str, list[str]] = defaultdict(list)
    for (by, outcome), rows in sorted(told.rows.items()):
        who[by].append(f"{rows:,} {_found_to_be(outcome)}")
    return [(by, ", ".join(rows)) for by, rows in list(who.items())[: _MOST["people"]]]


def _sendings(course: Course, manifest: Manifest) -> str:
    """How often requests were sent, in a sentence."""
    requests = _many(manifest.requests, "request")
    if manifest.attempts == manifest.requests:
        return f"{requests}, {'each ' if manifest.requests > 1 else ''}sent once."
    often_first = sorted(course.sendings.items(), key=lambda item: (-item[1], item[0]))[: _MOST["sendings"]]
    times = ", ".join(
        f"{batches:,} sent {_TIMES.get(often, f'{often} times')}" for often, batches in sorted(often_first)
    )
    sendings = _many(manifest.attempts, "sending")
    return f"{requests} in {sendings}: {times}. Only what is proven not applied is sent again."


def _found_to_be(outcome: Outcome) -> str:
    return {Outcome.SUCCEEDED: "issued", Outcome.FAILED: "not issued"}.get(outcome, "still open")


def _moment(instant: str) -> str:
    """An ISO 8601 moment for people."""
    return f"{instant[:10]} {instant[11:19]} UTC" if instant else ""


def _rows_of(ledger: Mapping[str, object]) -> int:
    return int(str(ledger.get("rows", 0)))


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun if count == 1 else noun + 's'}"
