"""Ledgers that went through a spreadsheet: what it damaged is restored, what a person changed rules."""

import codecs
import csv
import io
import json
import zipfile
from xml.etree import ElementTree as ET

import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st
from scene import Scene

from bulkissue.input.spreadsheet import made_of
from bulkissue.results import workbooks

MADE = [
    ("919986000586", "9.19986E+11"),
    ("919986000586", "9,19986E+11"),
    ("919986000586", "9.19986000586E+11"),
    ("919986000586", "919986000586"),
    ("919986000586", "919,986,000,586"),
    ("+919986000586", "919986000586"),
    ("007", "7"),
    ("00012345", "12345"),
    ("1E5", "100000"),
    ("1E5", "1.00E+05"),
    ("12345678901234567", "1.23457E+16"),
    ("12345678901234567", "12345678901234600"),
    ("1.50", "1.5"),
    ("1-2", "01-Feb"),
    ("1-2", "02-Jan"),
    ("1-2", "2026-02-01"),
    ("3/4/2026", "2026-04-03 00:00:00"),
    ("true", "TRUE"),
    ("'0791", "0791"),
    (" a ", "a"),
    ("a\r\nb", "a\nb"),
    ("Zoë", "ZoÃ«"),
    ("Łódź", "?ód?"),
]
CHANGED = [
    ("919986000586", "919986000587"),
    ("919986000586", "9.19987E+11"),
    ("007", "8"),
    ("7", "007"),
    ("1E5", "100001"),
    ("1-2", "03-Feb"),
    ("A1", "A2"),
    ("Zoë", "Zoe"),
    ("a@x.com", "b@x.com"),
    ("12", "1"),
    ("true", "FALSE"),
]


@pytest.mark.parametrize(("original", "cell"), MADE)
def test_what_a_spreadsheet_makes(original, cell):
    """These cells are the original, changed by a program."""
    assert made_of(original, cell)


@pytest.mark.parametrize(("original", "cell"), CHANGED)
def test_what_a_person_changed(original, cell):
    """These are other values."""
    assert not made_of(original, cell)


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text(original, cell):
    """Whatever stands there, it is told, and a text is made of itself."""
    made_of(original, cell)
    assert made_of(original, original)


ROWS = [
    ("0012345", "1-2", "Zoë"),
    ("1E5", "x", "Ana"),
    ("ABC", "y", "Bo"),
    ("00777", "z", "Cy"),
    ("12345678901234567", "w", "Di"),
]


@pytest.fixture
def scene(tmp_path, service, write_input, write_job):
    """A run of which no row was sent, over references that a spreadsheet damages."""
    write_input(["member", "code", "name"], ROWS)
    columns = {"columns": {"external_id": "member"}}
    write_job(service.base_url, action="issue", input=columns, identifiers={"prefer": ["external_id"]})
    it = Scene(tmp_path, service)
    assert it.do("run", "job.toml", "--limit", "0", "--yes", "--json").counts["not_attempted"] == 5
    return it


def ledger(scene):
    with (scene.run_dir() / "failure.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


NUMBERS = {"12345": "12345", "1.00E+05": "1E5", "777": "777", "1.23457E+16": "12345678901234567"}
DAMAGE = {"0012345": "12345", "1E5": "1.00E+05", "00777": "777", "12345678901234567": "1.23457E+16", "1-2": "01-Feb"}


def write_workbook(path, header, rows):
    """As a spreadsheet keeps what it took for numbers: to fifteen digits."""
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        for place, row in enumerate([header, *rows]):
            for column, cell in enumerate(row):
                numeric = place and not header[column].startswith("_bi") and cell in NUMBERS
                sheet.write(place, column, float(f"{float(NUMBERS[cell]):.15g}") if numeric else cell)


@pytest.mark.parametrize("how", ["semicolons and cp1252", "utf-8 taken for cp1252", "workbook"])
def test_the_round_trip_heals(scene, how):
    """Damaged cells are restored from the run's own input, a mended one rules, and both are said."""
    header, *rows = [[DAMAGE.get(cell, cell) for cell in row] for row in ledger(scene)]
    rows[2][0] = "ABX"  # a person's hand
    path = scene.folder / ("back.xlsx" if how == "workbook" else "back.csv")
    if how == "workbook":
        write_workbook(path, header, rows)
    else:
        text = io.StringIO()
        csv.writer(text, delimiter=";" if "semi" in how else ",").writerows([header, *rows])
        content = text.getvalue()
        if "taken" in how:
            content = content.encode("utf-8").decode("cp1252")
        path.write_bytes(content.encode("cp1252" if "semi" in how else "utf-8"))
    ended = scene.do("run", "job.toml", "--input", path.name, "--yes", "--json")
    assert ended.counts == {"rows": 5, "succeeded": 5}, ended.err
    with (ended.run_dir / "success.csv").open(encoding="utf-8", newline="") as file:
        success = {row["_bi_identifier"]: row for row in csv.DictReader(file)}
    assert set(success) == {"0012345", "1E5", "ABX", "00777", "12345678901234567"}
    assert success["0012345"]["name"] == "Zoë"
    assert "damaged by a spreadsheet and restored from run" in (ended.run_dir / "run.json").read_text(encoding="utf-8")


def test_a_row_that_the_run_does_not_have(scene):
    """A ledger whose lineage names no row of its run is refused."""
    header, *rows = ledger(scene)
    rows[0][header.index("_bi_row")] = "77"
    with (scene.folder / "back.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    refused = scene.do("run", "job.toml", "--input", "back.csv", "--yes", "--json")
    assert refused.code == 4
    assert "which has no such row" in refused.err


def test_a_run_that_is_gone(scene):
    """Where the run's input is not to be had, nothing is restored, and that is said."""
    header, *rows = ledger(scene)
    (scene.folder / "back.csv").write_text("\n".join(",".join(row) for row in [header, *rows]), encoding="utf-8")
    (scene.run_dir() / "input.parquet").unlink()
    ended = scene.do("run", "job.toml", "--input", "back.csv", "--yes", "--json")
    assert ended.counts["succeeded"] == 5
    assert "is not to be had" in (ended.run_dir / "run.json").read_text(encoding="utf-8")


def cells_of(path):
    """The cells of a workbook's first sheet, each with its type, from its XML."""
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as archive:
        tree = ET.parse(archive.open("xl/worksheets/sheet1.xml"))
    assert not list(tree.iter(f"{main}f")), "no formula"
    return [
        [(cell.get("t"), "".join(cell.itertext())) for cell in row.iter(f"{main}c")] for row in tree.iter(f"{main}row")
    ]


def test_ledgers_as_workbooks(scene, write_input, write_job):
    """Every cell is text, none is a formula; and the workbook is taken back as the ledger it is."""
    write_input(["member", "note"], [("0007", "=1+1"), ("1E5", "+1"), ("X", "@x"), ("Y", "-1\nz")], "hostile.csv")
    columns = {"columns": {"external_id": "member"}, "paths": ["hostile.csv"]}
    write_job(
        scene.service.base_url,
        action="issue",
        input=columns,
        identifiers={"prefer": ["external_id"]},
        output={"formats": ["csv", "xlsx", "parquet"]},
        name="books.toml",
    )
    ended = scene.do("run", "books.toml", "--limit", "0", "--yes", "--json")
    assert ended.counts == {"rows": 4, "not_attempted": 4}, ended.err
    header, *rows = cells_of(ended.run_dir / "failure.xlsx")
    assert [cell for _, cell in header][:3] == ["member", "note", "_bi_run"]
    assert [[cell for _, cell in row[:2]] for row in rows] == [
        ["0007", "=1+1"],
        ["1E5", "+1"],
        ["X", "@x"],
        ["Y", "-1\nz"],
    ]
    assert {kind for row in rows for kind, _ in row} == {"inlineStr"}
    digests = json.loads((ended.run_dir / "run.json").read_text())["ledgers"]
    assert {"failure.csv", "failure.xlsx", "failure.parquet"} <= digests.keys()
    assert scene.do("verify", ended.run_dir).code == 0
    for name in ("failure.xlsx", "failure.parquet"):
        (scene.folder / name).write_bytes((ended.run_dir / name).read_bytes())
    again = scene.do("run", "books.toml", "--input", "failure.xlsx", "--yes", "--json")
    assert again.counts == {"rows": 4, "succeeded": 4}, again.err
    assert scene.do("run", "books.toml", "--input", "failure.parquet", "--yes", "--json").counts["already_issued"] == 4
    assert scene.do("run", "books.toml", "--input", again.run_dir / "success.xlsx", "--yes", "--json").code == 4
    with (again.run_dir / "success.xlsx").open("ab") as file:
        file.write(b"x")
    assert scene.do("verify", again.run_dir).code == 1


def test_more_rows_than_a_sheet_takes(tmp_path, monkeypatch):
    """They go into further workbooks."""
    monkeypatch.setattr(workbooks, "MOST_ROWS", 10)
    (tmp_path / "failure.csv").write_text("a\n" + "".join(f"{n}\n" for n in range(25)))
    written = workbooks.write(tmp_path / "failure.csv", 25)
    assert [(one.path.name, one.rows) for one in written] == [
        ("failure.xlsx", 10),
        ("failure-2.xlsx", 10),
        ("failure-3.xlsx", 5),
    ]
    (tmp_path / "success.csv").write_text("a\n")
    assert [one.rows for one in workbooks.write(tmp_path / "success.csv", 0)] == [0]


@pytest.mark.parametrize("how", ["the input's", "the job's", "none"])
def test_a_byte_order_mark(scene, write_job, how):
    """CSV ledgers have one where the input had, or the job says."""
    content = (scene.folder / "input.csv").read_bytes()
    (scene.folder / "marked.csv").write_bytes((codecs.BOM_UTF8 if "input" in how else b"") + content)
    columns = {"columns": {"external_id": "member"}}
    output = {"csv_bom": "job" in how}
    write_job(
        scene.service.base_url,
        action="issue",
        input=columns,
        identifiers={"prefer": ["external_id"]},
        output=output,
        name="bom.toml",
    )
    ended = scene.do("run", "bom.toml", "--input", "marked.csv", "--yes", "--json")
    assert ended.code == 0, ended.err
    marks = {
        (ended.run_dir / f"{name}.csv").read_bytes()[:3] for name in ("success", "failure", "unknown", "duplicate")
    }
    assert marks == ({b"mem"} if how == "none" else {codecs.BOM_UTF8})
    assert scene.do("verify", ended.run_dir).code == 0
    assert (ended.run_dir / "report.html").exists()
