"""
The page: `report.html` as one piece of text, from what the other modules of this room have found.

Pure: no file but the style sheet, no clock. The page has no script, network or fonts, and is to be read on a desk, on
a phone and on paper. Rows are named by file and number; it must never show an identifier.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import urlsplit

from bulkissue.errors import EXIT_MEANINGS, ExitCode
from bulkissue.job.target import Target, parse
from bulkissue.outcomes import LEDGER_OF, Ledger, Outcome
from bulkissue.results.report import figures
from bulkissue.results.report.campaign import Campaign, Member
from bulkissue.results.report.causes import Cause, meaning
from bulkissue.results.report.course import Course
from bulkissue.results.report.figures import clock, duration, share, words
from bulkissue.results.report.markup import Html, called, element, said, table, text, together
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
_TIMES = {1: "once", 2: "twice"}
_FEWEST_INTERVALS = 3  # fewer are told in a sentence
_MOST_CAUSES = 60
_MOST_PEOPLE = 20
_MOST_SAME = 20
_MOST_FILES = 100
_MOST_RUNS = 50

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


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
    title = f"{manifest.job}: {parse(manifest.target).describe()}"
    head = together(
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("title", f"{title} – run {manifest.run_id}"),
        element("style", Html(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))),
    )
    main = element(
        "main",
        _heading(manifest),
        _result(manifest),
        _asked(manifest),
        _causes(found.causes),
        _unknown(found),
        _same_customers(manifest),
        _course(found.course, manifest),
        _campaign(found.campaign, manifest),
        _control(manifest),
        _footer(manifest),
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', main), lang='en')}\n"


def _section(title: str, *inside: object) -> Html:
    return element("section", element("h2", title), *inside)


def _p(*inside: object, class_: str | None = None) -> Html:
    return element("p", *inside, class_=class_)


def _heading(manifest: Manifest) -> Html:
    """What was asked, in two lines."""
    target = parse(manifest.target)
    occasion = together(", occasion ", called(target.occasion)) if target.occasion else ""
    return element(
        "header",
        element("h1", called(manifest.job)),
        _p(
            f"{_VERBS.get(manifest.action, manifest.action)} {_promotion(target)} in {target.environment}",
            occasion,
            Html("<br>"),
            _inputs_in_short(manifest),
            " · ",
            element("span", _moment(manifest.started_at), class_="moment"),
            f" · took {duration(1000 * manifest.seconds)}",
            class_="soft",
        ),
        _p(
            "A rehearsal: it went to a stand-in service, and nothing was issued to anybody.",
            class_="note",
        )
        if manifest.rehearsal
        else "",
    )


def _asked(manifest: Manifest) -> Html:
    target = parse(manifest.target)
    versions = manifest.versions
    facts: list[tuple[str, object]] = [
        ("Job", called(manifest.job)),
        ("Action", manifest.action),
        ("Target", f"{target.effect} {_promotion(target)}"),
        ("Occasion", called(target.occasion) if target.occasion else "none"),
        ("Environment", called(target.environment)),
        ("Service", urlsplit(manifest.base_url).netloc),
        ("Began", _moment(manifest.started_at)),
        ("Ledgers written", _moment(manifest.finished_at or "")),
        ("Worked for", duration(1000 * manifest.seconds)),
        ("Run", manifest.run_id),
        ("Retry of run", said(manifest.parent_run_id) if manifest.parent_run_id else ""),
        ("Input", _inputs_in_short(manifest)),
        ("Made with", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return _section(
        "What was asked",
        element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts if value)),
    )


def _promotion(target: Target) -> str:
    if target.series_id:
        return f"series {target.series_id}"
    return "promotion " + " / ".join(name for name in (target.promotion_id, target.promo_identifier) if name)


def _inputs_in_short(manifest: Manifest) -> Html:
    names = [file.name for file in manifest.inputs]
    few = together(*(together(", " if place else "", called(file)) for place, file in enumerate(names[:3])))
    more = f" and {len(names) - 3:,} more files" if len(names) > 3 else ""
    return together(few, more, f": {_rows(manifest.rows)}")


def _result(manifest: Manifest) -> Html:
    counts, rows = manifest.counts, manifest.rows
    code = ExitCode(manifest.exit_code if manifest.exit_code is not None else ExitCode.INTERNAL)
    lines = []
    for outcome in Outcome:
        count = counts.get(outcome, 0)
        name = together(_key(outcome), element("small", _MEANINGS[outcome]) if count else "")
        lines.append((name, f"{count:,}", share(count, rows), f"{LEDGER_OF[outcome]}.csv"))
    body = element("tbody", *(_outcome_line(line, zero=line[1] == "0") for line in lines))
    total = sum(counts.get(outcome, 0) for outcome in Outcome)
    stop = manifest.stop
    return together(
        _p(_in_one_sentence(manifest), class_="result"),
        _p(
            element("span", manifest.state, class_="state"),
            f" Exit {int(code)}: {EXIT_MEANINGS[code].partition(' (')[0]}.",
            class_="soft",
        ),
        _p(
            "The run did not come to its end: ",
            said(stop.message.removeprefix("stopped: ")),
            " (",
            element("code", stop.reason),
            "). ",
            "" if manifest.rehearsal else together("It goes on with ", _command(f"resume {manifest.run_id}"), "."),
            class_="note",
        )
        if stop is not None
        else "",
        figures.outcome_bar(counts, "run"),
        element(
            "table",
            element(
                "thead",
                element(
                    "tr",
                    element("th", "What happened", scope="col"),
                    element("th", "Rows", scope="col", class_="number"),
                    element("th", "Share", scope="col", class_="number"),
                    element("th", "Stands in", scope="col"),
                ),
            ),
            body,
            element("tfoot", _outcome_line(("All rows", f"{total:,}", share(total, rows) if rows else "", ""))),
            class_="outcomes",
        ),
        _adds_up(manifest, total),
    )


def _key(outcome: Outcome) -> Html:
    """An outcome's name with its colour."""
    marked = element("rect", class_="hatched") if outcome is Outcome.UNKNOWN else ""
    colour = element("svg", element("rect", class_=outcome.value), marked, class_="key", aria_hidden="true")
    return element("span", colour, words(outcome).capitalize(), class_="outcome")


def _outcome_line(cells: Sequence[object], *, zero: bool = False) -> Html:
    name, rows, part, ledger = cells
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", rows, class_="number"),
        element("td", part, class_="number"),
        element("td", element("code", ledger) if ledger else ""),
        class_="zero" if zero else None,
    )


def _in_one_sentence(manifest: Manifest) -> Html:
    counts = manifest.counts
    if not manifest.rows:
        return text("The input has no rows: there was nothing to do.")
    succeeded = counts.get(Outcome.SUCCEEDED, 0)
    first = (
        "Every row succeeded" if succeeded == manifest.rows else f"{succeeded:,} of {_rows(manifest.rows)} succeeded"
    )
    others = [
        f"{counts[outcome]:,} {words(outcome)}"
        for outcome in Outcome
        if outcome not in {Outcome.SUCCEEDED, Outcome.UNKNOWN} and counts.get(outcome)
    ]
    unknown = counts.get(Outcome.UNKNOWN, 0)
    verb = "is" if unknown == 1 else "are"
    return together(
        element("b", first),
        f"; {', '.join(others)}" if others else "",
        ". ",
        element("b", f"{unknown:,} {verb} unknown.", class_="alarm") if unknown else "",
    )


def _adds_up(manifest: Manifest, total: int) -> Html:
    """The sum, said so that anyone can check it."""
    ledgers = {f"{ledger}.csv": _rows_of(manifest.ledgers.get(f"{ledger}.csv", {})) for ledger in Ledger}
    read = [file.rows for file in manifest.inputs]
    inputs = " + ".join(f"{rows:,}" for rows in read[:6]) if 1 < len(read) <= 6 else ""
    agrees = sum(read) == manifest.rows == total == sum(ledgers.values())
    return _p(
        f"Rows read: {f'{inputs} = ' if inputs else ''}{sum(read):,}. Rows in the ledgers: ",
        " + ".join(f"{rows:,} {name}" for name, rows in ledgers.items()),
        f" = {sum(ledgers.values()):,}. ",
        "Every row stands in exactly one ledger."
        if agrees
        else element("b", "These do not agree: the books are broken.", class_="alarm"),
        class_="soft",
    )


def _causes(causes: Sequence[Cause]) -> Html:
    if not causes:
        return Html("")
    lines = [
        (
            together(
                _key(cause.outcome),
            ),
            f"{cause.rows:,}",
            _reason(cause),
            _named(cause.named, cause.rows),
        )
        for cause in causes[:_MOST_CAUSES]
    ]
    rest = causes[_MOST_CAUSES:]
    return _section(
        "Reasons",
        table(
            ("Outcome", "Rows", "Reason", "For example"),
            lines,
            numbers=[1],
            foot=("All reasons", f"{sum(cause.rows for cause in causes):,}", "", ""),
            class_="lines",
        ),
        _p(f"{len(rest):,} rarer reasons with {_rows(sum(cause.rows for cause in rest))} are not listed.")
        if rest
        else "",
    )


def _reason(cause: Cause) -> Html:
    ours = meaning(cause.reason)
    words_of_service = cause.words if cause.reason.startswith("api.") else ""
    theirs = together("the service says: “", said(words_of_service, cause.identifiers), "”") if words_of_service else ""
    if not ours and not theirs:
        ours = "the service answered with this code"
    return together(
        element("div", ours) if ours else "",
        element("div", theirs) if theirs else "",
        element("small", element("code", cause.reason)),
    )


def _named(named: Sequence[tuple[str, object]], rows: int) -> Html:
    """Examples by file and number, a file named once, and how many rows more there are."""
    if not named:
        return Html("")
    by_file: dict[str, list[str]] = defaultdict(list)
    for file, number in named:
        by_file[file].append(str(number))
    parts = [
        together(called(file), f" {'row' if len(numbers) == 1 else 'rows'} {', '.join(numbers)}")
        for file, numbers in by_file.items()
    ]
    more = f" and {rows - len(named):,} more" if rows > len(named) else ""
    return together(*(together("; " if place else "", part) for place, part in enumerate(parts)), more)


def _command(arguments: str) -> Html:
    return element("code", f"bulkissue {arguments}")


def _unknown(found: Findings) -> Html:
    manifest, told = found.manifest, found.settled
    unknown = [cause for cause in found.causes if cause.outcome is Outcome.UNKNOWN]
    if not unknown and not told.rows:
        return Html("")
    open_rows = sum(cause.rows for cause in unknown)
    issued, refused = told.count(Outcome.SUCCEEDED), told.count(Outcome.FAILED)
    first = f"{_rows(open_rows + issued + refused)} had no answer to trust"
    return _section(
        "Unknown rows and how they were settled",
        _p(
            f"{first}: {issued:,} proved to be issued, {refused:,} proved not to be, "
            f"and {open_rows:,} {'is' if open_rows == 1 else 'are'} still open."
            if issued or refused
            else f"{first}, and none is settled yet."
        ),
        _p(
            "Open rows may have been issued, so they are not sent again. ",
            _command(f"reconcile {manifest.run_id}"),
            " settles them by reading the service back; ",
            _command("resolve"),
            " takes a person’s word, with evidence.",
            class_="note",
        )
        if open_rows
        else "",
        together(
            element("h3", "Still open"),
            table(
                ("Reason", "Rows", "For example"),
                [(_reason(cause), f"{cause.rows:,}", _named(cause.named, cause.rows)) for cause in unknown],
                numbers=[1],
                class_="lines",
            ),
        )
        if unknown
        else "",
        _settled(told) if told.rows else "",
    )


def _settled(told: Settled) -> Html:
    who: dict[str, list[str]] = defaultdict(list)
    for (by, outcome), rows in sorted(told.rows.items()):
        who[by].append(f"{rows:,} {_found_to_be(outcome)}")
    some = list(who.items())[:_MOST_PEOPLE]
    return together(
        element("h3", "What was found out"),
        _p(
            *(
                together("; " if place else "", said(by), f": {', '.join(rows)}")
                for place, (by, rows) in enumerate(some)
            )
        ),
        table(
            ("Row", "Found to be", "By", "Evidence", "When"),
            [
                (
                    _named(word.named, len(word.places)),
                    element("span", _found_to_be(word.outcome), class_="moment"),
                    said(word.by, word.identifiers),
                    said(word.evidence, word.identifiers),
                    element("span", f"{clock(word.at, day=True)} UTC", class_="moment"),
                )
                for word in told.words
            ],
            class_="cards",
        ),
        _p(f"{_rows(told.untold)} more; the journal has them all.", class_="soft") if told.untold else "",
        _p(f"{_many(told.replaced, 'earlier word')} replaced by later ones.", class_="soft") if told.replaced else "",
    )


def _found_to_be(outcome: Outcome) -> str:
    return {Outcome.SUCCEEDED: "issued", Outcome.FAILED: "not issued"}.get(outcome, "still open")


def _same_customers(manifest: Manifest) -> Html:
    same = manifest.same_customers
    if same is None or not same.count:
        return Html("")
    lines = [
        (called(pair.rows[0]), together(called(pair.rows[1]), f" of run {pair.run}" if pair.run else ""))
        for pair in same.named[:_MOST_SAME]
    ]
    more = same.count - len(lines)
    return _section(
        "One customer, two rows",
        _p(
            f"{_rows(same.count)} turned out, by the service’s own customer ids, to be a customer who stands in "
            "another row too, under another identifier. Both rows were issued, or may have been.",
            class_="note",
        ),
        table(("Row", "is the same customer as"), lines, class_="cards"),
        _p(f"{more:,} more; ", element("code", "run.json"), " names the first hundred.", class_="soft") if more else "",
    )


def _course(course: Course, manifest: Manifest) -> Html:
    if not course.intervals:
        return _section("Requests over time", _p("Nothing was sent."))
    return _section("Requests over time", _charts(course), _tried(course, manifest))


def _charts(course: Course) -> Html:
    answered = sum(interval.rows for interval in course.intervals)
    if not answered:
        return _p("Nothing was answered.")
    median, slow = duration(course.median or 0), duration(course.slow or 0)
    if len(course.intervals) < _FEWEST_INTERVALS:
        return _p(f"{_rows(answered)} answered; half of the answers came within {median}, 95 % within {slow}.")
    waited = any(interval.waited for interval in course.intervals)
    pauses = [interval.pause for interval in course.intervals if interval.pause]
    throughput = _chart(
        f"Rows answered in each {duration(course.step)}",
        together(
            f"{_rows(answered)} in all",
            together("; ", element("span", class_="line-key key-wait"), "the service had asked to wait")
            if waited
            else "",
        ),
        figures.throughput(course),
    )
    times = _chart(
        "Time from send to answer",
        together(
            element("span", class_="line-key key-median"),
            f"median {median}",
            element("span", class_="line-key key-slow"),
            f"95 % within {slow}",
        ),
        figures.answer_times(course),
    )
    left_out = (
        f" {_many(len(pauses), 'pause')}, {duration(sum(pauses))} in all, left out where the lines are dashed."
        if pauses
        else ""
    )
    return together(element("div", throughput, times, class_="charts"), _p(f"Times are UTC.{left_out}", class_="soft"))


def _chart(title: str, key: Html, drawing: Html) -> Html:
    return element("figure", element("figcaption", element("b", title), element("small", key)), drawing)


def _tried(course: Course, manifest: Manifest) -> Html:
    """Retries and waits."""
    if manifest.attempts == manifest.requests:
        sendings = f"{_many(manifest.requests, 'request')}, {'each ' if manifest.requests > 1 else ''}sent once."
    else:
        times = sorted(sorted(course.sendings.items(), key=lambda item: (-item[1], item[0]))[:8])
        sendings = (
            f"{_many(manifest.requests, 'request')} in {_many(manifest.attempts, 'sending')}: "
            + ", ".join(f"{batches:,} sent {_TIMES.get(often, f'{often} times')}" for often, batches in times)
            + ". Only what is proven not applied is sent again."
        )
    waits = (
        f"The service asked to wait {_many(course.waits, 'time')}; "
        f"the run held back {duration(1000 * course.waited_seconds)} in all."
        if course.waits
        else "The service did not ask to wait."
    )
    return together(
        element("h3", "Retries and waits"),
        _p(sendings, " ", waits),
        _p(
            f"The answers of {_many(course.unanswered, 'sending')} were not noted, as the run was cut off. "
            "Their rows are unknown until settled.",
        )
        if course.unanswered
        else "",
        table(
            ("Proven not applied, because", "Sendings"),
            [(_coded(reason), f"{sendings:,}") for reason, sendings in course.void.items()],
            numbers=[1],
            class_="lines",
        )
        if course.void
        else "",
    )


def _coded(reason: str) -> Html:
    return together(meaning(reason) or "the service answered with this code", element("small", element("code", reason)))


def _campaign(campaign: Campaign, manifest: Manifest) -> Html:
    if len(campaign.members) == 1 and not campaign.missing_parent:
        return Html("")
    shown = campaign.members[-_MOST_RUNS:]
    first = campaign.members[0].manifest
    runs = {member.manifest.run_id for member in campaign.members}
    counts = campaign.counts
    parts: list[object] = []
    if campaign.missing_parent:
        parts.append(
            _p(
                "The rows of ",
                element("code", first.run_id),
                " come from the failure ledger of run ",
                element("code", said(campaign.missing_parent[:40])),
                ", which is not in this runs folder, or has another target.",
            )
        )
    if len(campaign.members) > 1:
        parts.append(
            table(
                ("Run", "Rows", "Succeeded", "Not issued", "Unknown", "Needed nothing"),
                [_member_line(member, manifest, runs) for member in shown],
                numbers=[1, 2, 3, 4, 5],
                class_="cards",
            )
        )
        if counts:
            total = sum(counts.get(outcome, 0) for outcome in Outcome)
            parts += [
                element("h3", "All runs together"),
                _p(
                    "Each row of the first run counts once, as it stands now: ",
                    ", ".join(f"{counts[outcome]:,} {words(outcome)}" for outcome in Outcome if counts.get(outcome)),
                    f"; {_rows(total)} in all"
                    + (f", {campaign.added:,} of them added by hand in a later run" if campaign.added else "")
                    + ".",
                ),
                figures.outcome_bar(counts, "campaign"),
            ]
        else:
            parts.append(_p("The total of all runs cannot be told: a ledger of theirs is missing or was edited."))
        if campaign.untold:
            parts.append(
                _p("Not in it, as their ledgers are not written: ", ", ".join(campaign.untold), ".", class_="note")
            )
    return _section("The campaign: runs and retries", *parts)


def _member_line(member: Member, manifest: Manifest, runs: Collection[str]) -> Sequence[object]:
    other = member.manifest
    counts = other.counts
    here = other.run_id == manifest.run_id
    about = " · ".join(
        part
        for part in (
            "this run" if here else "",
            f"retry of {other.parent_run_id}" if other.parent_run_id in runs else "",
            other.state,
        )
        if part
    )
    name = together(element("b" if here else "span", other.run_id, class_="moment"), element("small", about))
    if not member.has_ledgers:
        return name, f"{other.rows:,}", "", "", "", ""
    return (
        name,
        f"{other.rows:,}",
        f"{counts.get(Outcome.SUCCEEDED, 0):,}",
        f"{sum(counts.get(outcome, 0) for outcome in _FAILURE):,}",
        f"{counts.get(Outcome.UNKNOWN, 0):,}",
        f"{counts.get(Outcome.DUPLICATE, 0) + counts.get(Outcome.ALREADY_ISSUED, 0):,}",
    )


def _control(manifest: Manifest) -> Html:
    shown = manifest.inputs[:_MOST_FILES]
    lines: list[Sequence[object]] = [
        (together(called(file.name), element("small", "input")), f"{file.rows:,}", _digest(file.sha256))
        for file in shown
    ]
    if len(manifest.inputs) > len(shown):
        lines.append((f"{len(manifest.inputs) - len(shown):,} more inputs", "", element("code", "see run.json")))
    lines += [
        (together(name, element("small", _KEPT.get(name, ""))), "", _digest(value))
        for name, value in manifest.digests.items()
    ]
    lines += [
        (together(name, element("small", "ledger")), f"{_rows_of(ledger):,}", _digest(str(ledger["sha256"])))
        for name, ledger in manifest.ledgers.items()
    ]
    return _section(
        "Control totals",
        _p(
            "SHA-256 of what was read, planned and written. ",
            _command(f"verify {manifest.run_id}"),
            " proves them, and the counts, once more.",
        ),
        table(("File", "Rows", "SHA-256"), lines, numbers=[1], class_="lines"),
    )


_KEPT = {
    "job.toml": "the job as it was in effect",
    "input.parquet": "the input as it was read",
    "plan.parquet": "what became of each row before sending",
}


def _digest(value: str) -> Html:
    return element("code", value, class_="digest")


def _footer(manifest: Manifest) -> Html:
    return element(
        "footer",
        "Made by bulkissue ",
        manifest.versions.get("bulkissue", ""),
        " from this run’s plan, journal and ledgers. Rows are named by file and number of the data row, the header not "
        "counted; identifiers are left out or masked.",
    )


def _moment(instant: str) -> str:
    """An ISO 8601 moment for people."""
    return f"{instant[:10]} {instant[11:19]} UTC" if instant else ""


def _rows_of(ledger: Mapping[str, object]) -> int:
    return int(str(ledger.get("rows", 0)))


def _rows(count: int) -> str:
    return _many(count, "row")


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun if count == 1 else noun + 's'}"
