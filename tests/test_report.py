"""The report of a run: what a person reads in `report.html`, held against what the ledgers say."""

import csv
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import polars as pl
import pytest
import tomli_w
from conftest import read_ledgers
from scene import Scene

from bulkissue.outcomes import Outcome, Results
from bulkissue.results import report
from bulkissue.results.report import campaign, course, figures
from bulkissue.results.report.masking import said
from bulkissue.sandbox import Customer, Fault, Options, start_thread
from bulkissue.state import run_folder
from bulkissue.state.entries import Answer, Event, Intent
from bulkissue.state.history import RUN_SCHEMA, Digests
from bulkissue.state.journal import Journal

EMPTY_TAGS = {"meta", "br"}
MOBILES = [f"9199860{number:05}" for number in range(250)]


class Page(HTMLParser):
    """A report as a browser sees it: its tags, its words, and the cells of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] = " ".join(f"{self.tables[-1][-1][-1]} {data}".split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def column(self, table: int, place: int) -> list[int]:
        """The numbers of a table's column, without its head."""
        return [int(row[place].replace(",", "")) for row in self.tables[table][1:]]


def read(run_dir: Path) -> Page:
    return Page((run_dir / "report.html").read_text(encoding="utf-8"))


def write_again(run_dir: Path, out: Path) -> bytes:
    manifest = run_folder.read_manifest(run_dir)
    journal = Journal.look(run_dir / "journal.db", run_id=manifest.run_id)
    try:
        report.write(run_dir, manifest, journal, campaign.find(run_dir, manifest), out)
    finally:
        journal.leave()
    return out.read_bytes()


@pytest.fixture
def scene(serve, tmp_path, write_job):
    def begin(job=None, **options):
        service = serve(**options)
        write_job(service.base_url, **(job or {}))
        return Scene(tmp_path, service)

    return begin


@pytest.fixture(scope="module")
def eventful(tmp_path_factory):
    """A run with something of everything, some of its unknown rows settled; and what it was read from."""
    folder = tmp_path_factory.mktemp("eventful")
    rows = [["mobile", mobile, f"Asha {mobile[-3:]}"] for mobile in MOBILES[:150]]
    rows += [["mobile", mobile, "Twice Named"] for mobile in MOBILES[:7]]
    rows += [["mobile", "12", "Too Short"], ["", "", "Nobody"], ["mobile", "919986008015", "Not There"]]
    rows += [["email", f"asha.{number}@example.com", "By Mail"] for number in range(30)]
    rows += [["id", f"5500001{number:02}", "By Id"] for number in range(20)]
    with (folder / "input.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["type", "value", "Name"], *rows])
    later = '{"errors":[{"code":4001,"message":"later"}]}'
    faults = (
        Fault(kind="status", status=429, retry_after=1, nth=(4,), route="bulk"),
        Fault(kind="drop", when="after", nth=(9,), route="bulk"),
        Fault(kind="status", status=503, body=later, nth=(12,), route="bulk"),
    )
    with start_thread(Options(faults=faults)) as service:
        job = {
            "config_version": 1,
            "job": {"name": "Diwali", "action": "earn", "occasion": "2026-11"},
            "target": {"program_id": 469, "promotion_id": 69218},
            "input": {"paths": ["input.csv"]},
            "identifiers": {"default_source": "INSTORE"},
            "api": {
                "base_url": service.base_url,
                "limits": {"requests_per_minute": 600_000, "concurrency": 2, "batch_size": 10},
            },
        }
        (folder / "job.toml").write_bytes(tomli_w.dumps(job).encode())
        scene = Scene(folder, service)
        ended = scene.run()
        assert ended.code == 6, ended.err
        unknown = [
            number for (_, number), row in read_ledgers(ended.run_dir).items() if row["_bi_outcome"] == "unknown"
        ]
        first, second, *_ = sorted(unknown)
        said_of_it = f"CRM shows it for {rows[first - 1][1]}, and <script>alert(2)</script>"
        assert scene.do(*resolving(ended, first, "issued", said_of_it)).code == 6
        assert scene.do(*resolving(ended, second, "not-issued", "ticket 4711")).code == 6
    return ended.run_dir, rows


def resolving(ended, row: int, finding: str, evidence: str) -> tuple[object, ...]:
    return "resolve", ended.run_dir, "--row", row, "--as", finding, "--by", "Ravi", "--evidence", evidence


def test_it_stands_alone(eventful):
    """The page has no script, no link, no image and no address, and every tag is closed."""
    html = (eventful[0] / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "a",
        "use",
        "foreignobject",
    }
    attributes = {name for _, listed in page.tags for name in listed}
    assert not [name for name in attributes if name.startswith("on") or name in {"src", "href", "action", "srcset"}]
    assert "//" not in html.replace("<!doctype html>", "")
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {"#hatch-run", "#hatch-campaign"}
    assert (eventful[0] / "report.html").stat().st_mode & 0o777 == 0o600


def test_totals_add_up(eventful):
    """Outcomes, reasons and ledgers each add up to the rows of the input, and the bar's segments to its width."""
    run_dir, rows = eventful
    page = read(run_dir)
    counts = json.loads((run_dir / "run.json").read_bytes())["counts"]
    assert page.column(0, 1) == [*(counts[outcome] for outcome in Outcome), len(rows)]
    *reasons, total = page.column(1, 1)
    assert sum(reasons) == total == len(rows)
    assert "Every row stands in exactly one ledger." in page.text
    widths = [
        float(str(attributes["width"]).rstrip("%"))
        for tag, attributes in page.tags
        if tag == "rect" and "segment" in str(attributes.get("class"))
    ]
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert min(widths) > 1


def test_reasons_and_their_examples(eventful):
    """Each reason is told with its count, and its examples are rows that ended with it."""
    run_dir, _ = eventful
    found = Counter((row["_bi_outcome"], row["_bi_reason"]) for row in read_ledgers(run_dir).values())
    told = {}
    for outcome, count, reason, example in read(run_dir).tables[1][1:-1]:
        name = (outcome.lower().replace(" ", "_"), reason.split()[-1])
        told[name] = int(count)
        for number in re.findall(r"\d+", example.partition(" rows ")[2].partition(" and ")[0]):
            assert read_ledgers(run_dir)["input.csv", int(number)]["_bi_reason"] == name[1]
    assert told == found


def test_no_identifier_in_it(eventful):
    """No identifier and no other cell of the input stands in the page, also where a person's words hold one."""
    run_dir, rows = eventful
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    for _, identifier, name in rows:
        if len(identifier) > 2:
            assert identifier not in html
        assert name not in html
    for row in read_ledgers(run_dir).values():
        for column in ("_bi_customer_id", "_bi_reference", "_bi_request_id"):
            assert not row[column] or row[column] not in html
    assert "CRM shows it for 91…" in read(run_dir).text


def test_unknown_rows(eventful):
    """Open rows are told by reason, and settled ones by who, what and when."""
    run_dir, _ = eventful
    page = read(run_dir)
    assert (
        "10 rows had no answer to trust: 1 proved to be issued, 1 proved not to be, and 8 are still open." in page.text
    )
    [settled] = [table for table in page.tables if "Evidence" in table[0]]
    assert [line[1:3] for line in settled[1:]] == [["issued", "Ravi"], ["not issued", "Ravi"]]
    assert settled[1][3].endswith("<script>alert(2)</script>")


def test_retries_and_waits(eventful):
    """Void attempts are told by reason, and waits with their length."""
    page = read(eventful[0])
    [void] = [table for table in page.tables if table[0][0].startswith("Proven")]
    assert {line[0].split()[-1]: line[1] for line in void[1:]} == {"http.429": "1", "api.4001": "1"}
    assert "The service asked to wait 1 time; the run held back 1 s in all." in page.text
    assert "2 sent twice" in page.text


def test_the_same_input_gives_the_same_bytes(eventful, tmp_path):
    """Written again, also from a copy of the run folder, the page is the same, byte for byte."""
    run_dir, _ = eventful
    before = (run_dir / "report.html").read_bytes()
    assert write_again(run_dir, tmp_path / "again.html") == before
    elsewhere = tmp_path / "elsewhere" / run_dir.name
    shutil.copytree(run_dir, elsewhere)
    assert write_again(elsewhere, tmp_path / "copy.html") == before


def test_what_comes_from_outside_is_no_markup(scene, write_input):
    """Names of jobs and files, and the service's words, are shown as they are and do nothing."""
    hostile = '<script>alert("1")</script>'
    write_input(["mobile"], [(MOBILES[0],), (MOBILES[1],)], name="<b>in & out.csv")
    scene = scene({"job": {"name": hostile}, "input": {"paths": ["<b>in & out.csv"]}, "limits": {"batch_size": 1}})
    words = f'<img src=x onerror=alert(1)> for {MOBILES[0]} and "you" \u202e'
    body = msgspec.json.encode({"response": [{"errors": [{"code": 9999, "message": words}]}]}).decode()
    scene.service.order(Fault(kind="status", status=200, body=body, nth=(1,), route="bulk"))
    ended = scene.do("run", "job.toml", "--yes", "--json")
    assert ended.counts == {"rows": 2, "succeeded": 1, "failed": 1}, ended.err
    page = read(ended.run_dir)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "b>in"}
    assert hostile in page.text
    assert "<b>in & out.csv row 1" in page.text
    assert 'the service says: “ <img src=x onerror=alert(1)> for 91…00 and "you" \u202e ”' in page.text


def test_an_empty_run(scene, write_input):
    """A run without rows has a report that says so."""
    write_input(["mobile"], [])
    ended = scene().do("run", "job.toml", "--yes", "--json")
    assert ended.code == 0, ended.err
    page = read(ended.run_dir)
    assert "The input has no rows: there was nothing to do." in page.text
    assert "Nothing was sent." in page.text
    assert page.column(0, 1) == [0] * 8


def test_a_stopped_run(scene, write_input):
    """A run that stopped says why, and how it goes on; once resumed, the page is of the whole run."""
    write_input(["mobile"], [(mobile,) for mobile in MOBILES])
    scene = scene({"guards": {"max_failed": 0}, "limits": {"concurrency": 1}})
    body = '{"response":[{"errors":[{"code":1101,"message":"no such program"}],"warnings":[]}],"totalCount":1}'
    scene.service.order(Fault(kind="status", status=200, body=body, nth=(2,), route="bulk"))
    stopped = scene.run()
    assert stopped.code == 7, stopped.err
    page = read(stopped.run_dir)
    assert "The run did not come to its end:" in page.text
    assert "guard.refusal" in page.text
    assert f"bulkissue resume {stopped.json['run_id']}" in page.text
    assert page.column(0, 1) == [100, 100, 0, 50, 0, 0, 0, 250]
    resumed = scene.resume()
    assert resumed.counts == {"rows": 250, "succeeded": 150, "failed": 100}, resumed.err
    page = read(stopped.run_dir)
    assert "did not come to its end" not in page.text
    assert page.column(0, 1) == [150, 100, 0, 0, 0, 0, 0, 250]


def test_a_report_that_cannot_be_written(scene, write_input):
    """A run is not ended otherwise by a report that cannot be written; the log says so."""
    write_input(["mobile"], [(MOBILES[0],)])
    scene = scene()
    scene.run(crash_at="sending.ended")
    (scene.run_dir() / "report.html").mkdir()
    ended = scene.resume()
    assert (ended.code, ended.counts) == (0, {"rows": 1, "succeeded": 1}), ended.err
    assert "report.failed" in ended.err
    assert scene.do("verify", "latest").code == 0


def test_one_customer_with_two_identifiers(scene, write_input):
    """Two rows that the service knows as one customer are named, in the page and in run.json, also across runs."""
    people = tuple(
        Customer(id=7000 + number, mobile=MOBILES[number], email=f"c{number}@example.com") for number in range(3)
    )
    scene = scene(customers=people)
    rows = [("mobile", MOBILES[0]), ("mobile", MOBILES[9]), ("email", "c0@example.com"), ("email", "c1@example.com")]
    write_input(["type", "value"], rows)
    first = scene.run()
    assert first.counts == {"rows": 4, "succeeded": 4}, first.err
    write_input(["type", "value"], [("mobile", MOBILES[1]), ("id", "7002"), ("mobile", MOBILES[2])], name="second.csv")
    second = scene.run(path="second.csv")
    assert second.counts == {"rows": 3, "succeeded": 3}, second.err

    def told(ended):
        return json.loads((ended.run_dir / "run.json").read_bytes())["same_customers"]

    assert told(first) == {"count": 1, "named": [{"rows": ["input.csv row 1", "input.csv row 3"], "run": None}]}
    assert told(second) == {
        "count": 2,
        "named": [
            {"rows": ["second.csv row 1", "input.csv row 4"], "run": first.json["run_id"]},
            {"rows": ["second.csv row 2", "second.csv row 3"], "run": None},
        ],
    }
    [table] = [table for table in read(second.run_dir).tables if table[0][1].startswith("is the same")]
    assert table[1] == ["second.csv row 1", f"input.csv row 4 of run {first.json['run_id']}"]
    assert "7001" not in read(second.run_dir).text


def test_many_rows_of_one_customer(tmp_path):
    """All such rows are counted and the first hundred named, in the order of their numbers."""
    rows = [("20260101T000000000Z-0000", "b.csv", row, f"{row % 3}") for row in range(1, 601)]
    rows += [("20260102T000000000Z-0000", "a.csv", row, f"{row}" if row < 600 else "") for row in range(900, 0, -1)]
    columns = pl.DataFrame(rows, schema=["run", "source_file", "source_row", "customer_id"], orient="row")
    filled = columns.with_columns(
        pl.lit("mobile").alias("identifier_type"), pl.lit("").alias("compare_key"), pl.lit(None).alias("outcome")
    )
    told = pl.concat([pl.DataFrame(schema=RUN_SCHEMA), filled], how="diagonal_relaxed").lazy()
    issued = Digests("k").digested(told)
    later = report.same_customers(issued, "20260102T000000000Z-0000")
    assert later.count == 2
    assert [pair.rows for pair in later.named] == [("a.csv row 1", "b.csv row 1"), ("a.csv row 2", "b.csv row 2")]
    earlier = report.same_customers(issued, "20260101T000000000Z-0000")
    # Customer 0 stands in this run alone, 1 and 2 also in the other: all their rows have a row there.
    assert earlier.count == 199 + 200 + 200
    assert len(earlier.named) == 100
    assert earlier.named[0].rows == ("b.csv row 1", "a.csv row 1")
    assert earlier.named[4] == run_folder.SameCustomer(("b.csv row 3", "b.csv row 6"))


def test_the_campaign(scene, write_input):
    """Runs and retries name each other, and together count every row once, as it stands now."""
    rows = [(mobile, "x") for mobile in MOBILES[:60]] + [("919986018015", "x"), ("1", "short")]
    write_input(["mobile", "name"], rows)
    scene = scene({"limits": {"batch_size": 20, "concurrency": 1}}, magic=True)
    first = scene.do("run", "job.toml", "--limit", 40, "--yes", "--json")
    assert first.counts == {"rows": 62, "succeeded": 40, "rejected": 1, "not_attempted": 21}, first.err
    scene.service.order(Fault(kind="drop", when="after", nth=(1,), route="bulk"))
    second = scene.do("retry", first.run_dir, "--yes", "--json")
    assert second.counts == {"rows": 22, "failed": 1, "unknown": 20, "rejected": 1}, second.err
    with (second.run_dir / "failure.csv").open(newline="", encoding="utf-8") as file:
        failed = list(csv.DictReader(file))
    mended = [{**row, "mobile": MOBILES[100 + place]} for place, row in enumerate(failed)]
    mended.append({**dict.fromkeys(failed[0], ""), "mobile": MOBILES[200], "name": "by hand"})
    write_input(list(mended[0]), [list(row.values()) for row in mended], name="mended.csv")
    third = scene.do("run", "job.toml", "--input", "mended.csv", "--yes", "--json")
    assert third.counts == {"rows": 3, "succeeded": 3}, third.err
    other = scene.do("run", "job.toml", "--input", second.run_dir / "failure.csv", "--occasion", "x", "--yes", "--json")
    for ended in (first, second, third):
        page = read(ended.run_dir)
        [table] = [table for table in page.tables if table[0][0] == "Run"]
        assert [line[0][:24] for line in table[1:]] == [run.json["run_id"] for run in (first, second, third)]
        assert [line[1:4] for line in table[1:]] == [["62", "40", "22"], ["22", "0", "2"], ["3", "3", "0"]]
        assert "43 succeeded, 20 unknown; 63 rows in all, 1 of them added by hand" in page.text
    assert "another target" in read(other.run_dir).text
    assert "All runs together" not in read(other.run_dir).text
    (second.run_dir / "success.csv").unlink()
    write_again(first.run_dir, first.run_dir / "report.html")
    assert "cannot be told" in read(first.run_dir).text


def test_a_parent_that_is_no_run(tmp_path):
    """A parent's name from an edited ledger leads nowhere outside the runs folder."""
    manifest = a_manifest(parent_run_id="../../etc")
    found = campaign.find(tmp_path / manifest.run_id, manifest)
    assert [member.manifest for member in found.members] == [manifest]
    assert found.missing_parent == "../../etc"


def a_manifest(**fields) -> run_folder.Manifest:
    return run_folder.Manifest(
        **{
            "run_id": "20260102T000000000Z-0000",
            "job": "j",
            "action": "earn",
            "target": "h/earn/promotion=1",
            "base_url": "https://h",
            "state_dir": "s",
            "started_at": "",
            "rows": 0,
            "columns": (),
            "inputs": (),
            "digests": {},
            **fields,
        }
    )


PROVEN = Results("succeeded", "answer.proof", reference="1")
Sent = tuple[int, int | None, int, str | None, int]


def traced(path: Path, attempts: list[Sent], events=()) -> course.Course:
    """The course of a journal with these attempts: (sent, answered or None, rows, void, status)."""
    journal = Journal.create(path, run_id="r", plan_sha256="p")
    entries: list[Intent | Answer | Event] = []
    for number, (sent, answered, rows, void, status) in enumerate(attempts, start=1):
        entries.append(Intent(number, number, list(range(rows)), sent))
        if answered is not None:
            results = None if void else PROVEN
            entries.append(Answer(number, answered, void, results, http_status=status))
    journal.write([*entries, *(Event(name, at, detail) for name, at, detail in events)])
    try:
        return course.trace(journal, journal.events())
    finally:
        journal.close()


@pytest.mark.parametrize(
    ("seconds", "apart"), [(1, 0.01), (59, 0.5), (61, 1), (3_600, 20), (86_400, 300), (40 * 86_400, 50_000)]
)
def test_intervals(tmp_path, seconds, apart):
    """However long a run was, it is told in at most sixty intervals without gaps, and no answered row is left out."""
    sent = [int(1_000 * apart * number) for number in range(int(seconds / apart))]
    found = traced(tmp_path / "j", [(at, at + 7, 3, None, 200) for at in sent])
    assert sum(interval.rows for interval in found.intervals) == 3 * len(sent)
    lengths = [after.start - before.end - after.pause for before, after in pairwise(found.intervals)]
    assert len(found.intervals) <= 60
    assert set(lengths) <= {0}
    assert (found.median, found.slow) == (7, 7)


def test_pauses_waits_and_lost_answers(tmp_path):
    """What lies between two sessions is left out; waits are marked; attempts count by what became of them."""
    attempts: list[Sent] = [(1_000 * second, 1_000 * second + 100, 10, None, 200) for second in range(10)]
    attempts += [(10_000, 10_050, 10, "http.429", 429), (12_000, None, 10, None, 0)]
    attempts += [(3_600_000 + 1_000 * second, 3_600_300 + 1_000 * second, 10, None, 200) for second in range(10)]
    attempts += [(3_612_000, 3_613_000, 10, None, 0)]  # timed out: no answer
    events = [("service.throttled", 10_050, {"seconds": 1.5}), ("run.stopped", 13_000, {})]
    found = traced(tmp_path / "j", attempts, events)
    assert [interval.pause for interval in found.intervals if interval.pause] == [3_600_000 - 12_001]
    assert sum(interval.rows for interval in found.intervals) == 200
    assert sum(interval.end - interval.start for interval in found.intervals) < 30_000
    waited = [interval for interval in found.intervals if interval.waited]
    assert (waited[0].start, waited[-1].end) == (10_000, 12_000)
    assert found.void == {"http.429": 1}
    assert (found.unanswered, found.waits, found.waited_seconds) == (1, 1, 1.5)
    assert (found.median, found.slow) == (100, 300)
    assert len(figures.throughput(found).pauses) == 1


@pytest.mark.parametrize(
    ("words", "identifiers", "shown"),
    [
        ("ticket 4711 of 2026-11-20 09:30:15", (), "ticket 4711 of 2026-11-20 09:30:15"),
        ("see run 20261120T093015123Z-7f3a", (), "see run 20261120T093015123Z-7f3a"),
        ("mobile +91 99860 00586 has it", (), "mobile 91…86 has it"),
        ("customer 550000123", (), "customer 55…23"),
        ("asha.r@example.com", (), "…@example.com"),
        ("mobile 87654321 of an island", (), "mobile … of an island"),
        ("of 9876543", (), "of …"),
        ("card AB-17-Z is merged", ("AB-17-Z",), "card … is merged"),
        ("card ab-17-z is merged", ("AB-17-Z",), "card … is merged"),
        ("two\nlines\x00", (), "two lines\ufffd"),
    ],
)
def test_masked(words, identifiers, shown):
    """In words from outside, identifiers are masked, and dates, tickets and runs are not."""
    assert said(words, identifiers) == f"<bdi>{shown}</bdi>"


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (1, 1_000_000, "< 0.1 %"), (999_999, 1_000_000, "> 99.9 %"), (1, 3, "33.3 %")],
)
def test_share(part, whole, shown):
    """A share never reads as nothing or all where it is not."""
    assert figures.share(part, whole) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (7, "7 ms"),
        (1_000, "1 s"),
        (1_520, "1.52 s"),
        (203_000, "3 min 23 s"),
        (7_200_000, "2 h"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_duration(milliseconds, shown):
    """A length of time is told in one or two units."""
    assert figures.duration(milliseconds) == shown
