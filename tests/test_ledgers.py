"""Ledgers from plan and journal: every row's own answer in its own line, written as CSV has to be."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scene import MOBILES, Scene

from bulkissue.errors import ConservationBroken, StateRefused
from bulkissue.outcomes import KNOWN_BY, LEDGER_COLUMNS, LEDGER_OF, REASONS, RESULT_FIELDS, Outcome, Results, RowResult
from bulkissue.plan.rows import PLAN_SCHEMA
from bulkissue.results import derivation, ledgers
from bulkissue.state import attempts
from bulkissue.state.entries import Answer, Entry, Intent, Settlement
from bulkissue.state.journal import Journal

PROOF = RowResult(Outcome.SUCCEEDED, "answer.proof", customer_id="7", reference="e1")
COMPLETED = derivation.Ending(completed=True)
NASTY = ["", "a,b", 'say "a"', "line\nbreak", "\r", "plain", "Ünï", " blank ", None, '","', "\\", "\x00"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal of a run of 12 rows in batches of three."""
    opened = Journal.create(tmp_path / "journal.db", run_id="r", plan_sha256="p")
    yield opened
    opened.close()


def folder(path: Path, names: Sequence[str | None] = ("x",) * 12) -> derivation.Run:
    """A run folder with the input and the plan of so many rows, of which every fourth is a duplicate."""
    rows = pl.DataFrame({"name": names}, schema={"name": pl.String}).with_columns(
        pl.lit("in.csv").alias("_bi_source_file"),
        pl.int_range(1, pl.len() + 1, dtype=pl.UInt64).alias("_bi_row"),
        pl.lit(None, pl.String).alias("_bi_reason"),
        pl.lit(None, pl.String).alias("_bi_message"),
        pl.lit(0, pl.UInt32).alias("_bi_attempts"),
    )
    rows.write_parquet(path / "input.parquet")
    row = pl.int_range(pl.len())
    twice = row % 4 == 3
    plan = rows.select(
        row=row,
        identifier_type=pl.lit("mobile"),
        identifier=pl.format("9199860005{}", row + 10),
        compare_key=pl.lit(None),
        source=pl.lit("INSTORE"),
        account_id=pl.lit(None),
        outcome=pl.when(twice).then(pl.lit("duplicate")),
        reason=pl.when(twice).then(pl.lit("dedupe.same_identifier")),
        message=pl.when(twice).then(pl.lit("the same customer, again")),
        batch=pl.when(~twice).then(row // 4 + 1),
        first=pl.lit(None),
        passed_over=pl.lit(None),
        **{name: pl.lit(None) for name in KNOWN_BY.values()},
    )
    plan.select(pl.col(name).cast(kind) for name, kind in PLAN_SCHEMA.items()).write_parquet(path / "plan.parquet")
    return derivation.Run(path, "r", "t", ("name",), rows.height)


def sent(number: int, batch: int, *rows: int, void: str | None = None, found: Results | None = None) -> list[Entry]:
    """An attempt and its answer, ten milliseconds later."""
    return [
        Intent(number, batch, rows, number * 1000),
        Answer(number, number * 1000 + 10, void, found, 200, f"q{number}"),
    ]


def test_each_row_has_its_own_answer(tmp_path, journal):
    """Void attempts, mixed answers, a lost answer and rows without a turn end in their own lines, in input order."""
    mixed = Results.of([PROOF, RowResult(Outcome.FAILED, "api.8015", 'no, "such" one', "8015"), PROOF])
    settled = Settlement(9, Outcome.FAILED, "resolve.not_issued", "a person said so", "", "Asha", "t 1", 5)
    journal.write(
        [
            *sent(1, 2, 4, 5, 6, void="http.429"),
            *sent(2, 1, 0, 1, 2, found=mixed),
            *sent(3, 2, 4, 5, 6, found=Results("succeeded", "answer.proof", reference=["a", "b", "c"])),
            Intent(4, 3, [8, 9, 10], 4000),
            settled,
        ]
    )
    run = folder(tmp_path)
    books = ledgers.write(run, journal, COMPLETED, ["csv"], tmp_path)
    assert books.counts() == {**{outcome.value: 0 for outcome in Outcome}, "rows": 12} | {
        "succeeded": 5,
        "failed": 2,
        "unknown": 2,
        "duplicate": 3,
    }
    assert books.failure_reasons() == {"crash.no_answer": 2, "api.8015": 1, "resolve.not_issued": 1}
    frames = [pl.read_csv(tmp_path / f"{name}.csv", infer_schema=False) for name in set(LEDGER_OF.values())]
    lines = pl.concat(frames).sort(pl.col("_bi_row").cast(pl.Int64))
    told = ("_bi_row", "_bi_outcome", "_bi_message", "_bi_attempts", "_bi_reference", "_bi_request_id", "_bi_sent_at")
    failed, second = 'no, "such" one', "1970-01-01T00:00:0{}.000Z"
    again = "the same customer, again"
    assert lines.select(told).rows()[:10] == [
        ("1", "succeeded", "", "1", "e1", "q2", second.format(2)),
        ("2", "failed", failed, "1", None, "q2", second.format(2)),
        ("3", "succeeded", "", "1", "e1", "q2", second.format(2)),
        ("4", "duplicate", again, "0", None, None, None),
        ("5", "succeeded", "", "2", "a", "q3", second.format(3)),
        ("6", "succeeded", "", "2", "b", "q3", second.format(3)),
        ("7", "succeeded", "", "2", "c", "q3", second.format(3)),
        ("8", "duplicate", again, "0", None, None, None),
        ("9", "unknown", REASONS["crash.no_answer"], "1", None, None, second.format(4)),
        ("10", "failed", "a person said so (Asha: t 1)", "1", None, None, second.format(4)),
    ]
    for name, ledger in books.digests.items():
        whole = (tmp_path / name).read_bytes()
        assert ledger["sha256"] == hashlib.sha256(whole).hexdigest()
    remembered = pl.read_parquet(books.history)
    assert remembered["source_row"].to_list() == [1, 3, 5, 6, 7, 9, 11]
    assert remembered["reference"].to_list() == ["e1", "e1", "a", "b", "c", None, None]


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.sampled_from(NASTY) | st.text(max_size=4), min_size=12, max_size=12))
def test_cells_are_quoted_as_polars_does(tmp_path_factory, names):
    """A ledger's text is what polars writes of the whole table, whatever the cells hold."""
    path = tmp_path_factory.mktemp("run")
    run = folder(path, names)
    journal = Journal.create(path / "journal.db", run_id="r", plan_sha256="p")
    said = [RowResult(Outcome.SUCCEEDED, "answer.proof", name or "", reference=name or "e") for name in names[:3]]
    journal.write(sent(1, 1, 0, 1, 2, found=Results.of(said)))
    try:
        for piece in derivation.pieces(run, journal, derivation.Ending(completed=False)):
            ours = ledgers.text_of(piece).write_csv(include_header=False, quote_style="never")
            assert ours == piece.whole().select("name", *LEDGER_COLUMNS).write_csv(include_header=False)
    finally:
        journal.close()


texts = st.sampled_from(["", "a", "a", ",", "Ünï", "\x00\n", '"', "\\", '","', "]["]) | st.text(max_size=4)
results = st.builds(RowResult, st.sampled_from(Outcome), texts, texts, texts, texts, texts, texts)


@settings(max_examples=60, deadline=None)
@given(answers=st.lists(st.lists(results, min_size=1, max_size=4) | st.none(), max_size=5))
@example(answers=[[RowResult(Outcome.FAILED, text) for text in said] for said in (",", ",,", "a,")])
def test_attempts_as_tables(tmp_path_factory, answers):
    """The tables say of every row what the journal does, whatever the texts are and wherever results are missing."""
    path = tmp_path_factory.mktemp("attempts") / "journal.db"
    journal = Journal.create(path, run_id="r", plan_sha256="p")
    try:
        for number, found in enumerate(answers, 1):
            rows = list(range(10 * number, 10 * number + len(found or "xx")))
            journal.write(
                [Intent(number, number, rows, 1), *([Answer(number, 2, None, Results.of(found))] if found else [])]
            )
        found, sent = attempts.read(journal, [(1, 2), (3, 9)])
        expected = []
        for attempt in journal.attempts():
            for place, row in enumerate(attempt.rows):
                fields = [getattr(attempt.results, name, None) for name in RESULT_FIELDS]
                expected.append((row, *(field[place] if isinstance(field, list) else field for field in fields)))
        spread = sent.hstack(found.select(pl.exclude(sent.columns).gather(sent["attempt"])))
        assert spread.select("row", *RESULT_FIELDS).rows() == expected
    finally:
        journal.close()


@pytest.mark.parametrize("odd", ["", "\\"], ids=["plain", "escaped"])
@pytest.mark.parametrize("sizes", [(2, 3), (2, 4)], ids=["too few", "too few and too many"])
def test_an_answer_that_does_not_fit_its_rows(tmp_path, journal, sizes, odd):
    """An answer with more or fewer results than its attempt has rows is refused, and gives no row another's."""
    for number, size in enumerate(sizes, 1):
        said = Results("succeeded", "answer.proof", reference=[f"{odd}e{place}" for place in range(size)])
        first = 4 * number - 4
        journal.write(sent(number, number, first, first + 1, first + 2, found=said))
    with pytest.raises(StateRefused, match="one result for each"):
        ledgers.write(folder(tmp_path), journal, COMPLETED, ["csv"], tmp_path)
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        (sent(1, 9, 0, 1, 2, found=Results.of([PROOF] * 3)), ConservationBroken, "names 3 rows as sent"),
        (sent(1, 3, 8, 9, 99, found=Results.of([PROOF] * 3)), StateRefused, "rows that the run does not have"),
        (sent(1, 1, 3, found=Results.of([PROOF])), ConservationBroken, "row 4 was sent although the plan settles it"),
        (
            [*sent(1, 1, 0, found=Results.of([PROOF])), *sent(2, 1, 0, void="http.429")],
            ConservationBroken,
            "sent again although",
        ),
        (
            [*sent(1, 1, 0, 1, found=Results.of([PROOF] * 2)), Settlement(1, Outcome.FAILED, "r", "", "", "", "", 1)],
            ConservationBroken,
            r"row 2 was settled although it was not unknown \(1 such rows\)",
        ),
        ([], ConservationBroken, r"row 1 has neither an outcome nor an attempt \(9 such rows\)"),
    ],
)
def test_contradictions_are_refused(tmp_path, journal, entries, error, words):
    """Plan and journal that contradict each other give no ledger."""
    journal.write(entries)
    ending = derivation.Ending(completed="neither" in words)
    with pytest.raises(error, match=words):
        ledgers.write(folder(tmp_path), journal, ending, ["csv"], tmp_path)
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    ("change", "words"),
    [(pl.DataFrame.reverse, "in their order"), (lambda plan: plan.head(5), "differ in length")],
    ids=["reversed", "shorter"],
)
def test_a_plan_of_other_rows(change, words, tmp_path, journal):
    """A plan whose rows are not the input's, one for one, gives no ledger: a row could get another's answer."""
    run = folder(tmp_path)
    change(pl.read_parquet(tmp_path / "plan.parquet")).write_parquet(tmp_path / "plan.parquet")
    with pytest.raises(ConservationBroken, match=words):
        ledgers.write(run, journal, COMPLETED, ["csv"], tmp_path)
    assert not list(tmp_path.glob("*.csv"))


def test_pieces_make_no_difference(tmp_path, journal, monkeypatch):
    """However many rows are held at once, the rows are the same."""
    journal.write(sent(1, 1, 0, 1, 2, found=Results.of([PROOF] * 3)))
    run, ending = folder(tmp_path), derivation.Ending(completed=False)
    whole = pl.concat(list(derivation.frames(run, journal, ending)))
    monkeypatch.setattr(derivation, "_SLICE", 5)
    assert_frame_equal(pl.concat(list(derivation.frames(run, journal, ending))), whole)
    text = io.BytesIO()
    whole.write_csv(text)
    assert text.getvalue().count(b"\n") == 13


def test_duplicates_that_are_counted(tmp_path, service, write_input, write_job):
    """With `duplicates = "count"` the ledger has its first thousand rows, and the books say what it leaves out."""
    rows = [mobile for mobile in MOBILES[:3] for _ in range(500)]
    write_input(["mobile", "name"], [(mobile, "n") for (mobile,) in rows])
    write_job(service.base_url, output={"duplicates": "count", "formats": ["csv", "parquet", "xlsx"]})
    scene = Scene(tmp_path, service)
    ended = scene.run()
    assert ended.counts == {"rows": 1500, "succeeded": 3, "duplicate": 1497}
    left = "497 rows are counted and not written to duplicate.csv (dedupe.same_identifier 497)"
    assert left in " ".join(ended.json["warnings"])
    written = pl.read_csv(ended.run_dir / "duplicate.csv", infer_schema=False)
    assert written.height == 1000
    assert [int(row) for row in written["_bi_row"]] == [n for n in range(1, 1501) if n not in {1, 501, 1001}][:1000]
    manifest = json.loads((ended.run_dir / "run.json").read_text())
    assert manifest["ledgers"]["duplicate.csv"]["rows"] == 1000
    assert manifest["ledgers"]["duplicate.xlsx"]["rows"] == 1000
    assert manifest["left_out"] == [{"outcome": "duplicate", "reason": "dedupe.same_identifier", "rows": 497}]
    assert scene.do("verify", ended.run_dir, "--json").json["wrong"] == []
    assert "1,497" in (ended.run_dir / "report.html").read_text()
    manifest["left_out"][0]["rows"] = 7
    (ended.run_dir / "run.json").write_text(json.dumps(manifest))
    assert "leaves out other rows" in " ".join(scene.do("verify", ended.run_dir, "--json").json["wrong"])
    again = scene.run()
    assert again.counts == {"rows": 1500, "already_issued": 3, "duplicate": 1497}
    assert sum(one["rows"] for one in json.loads((again.run_dir / "run.json").read_text())["left_out"]) == 500
