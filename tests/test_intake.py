"""What becomes of input files: every row with its file and number, or a clear refusal."""

import csv
import datetime as dt
import hashlib
import io
import random
import re
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from intaking import OWN, TARGET, workbook

from bulkissue.errors import InputRefused
from bulkissue.input import decoding, intake, records, unpacking
from bulkissue.input.column_mapping import find_roles, kept_names
from bulkissue.input.intake import take_in
from bulkissue.input.tables import _as_text
from bulkissue.job.inbox import ENDINGS
from bulkissue.job.model import ColumnsSection, InputSection
from bulkissue.outcomes import LEDGER_COLUMNS, REASONS

OTHER = "production/enrol/promotion=69218"
SAMPLES = Path(__file__).parent.parent / "sample_inputs"


# --- text files


def test_rows_are_numbered_text(take):
    """Every cell is text as written, an empty one null, and rows are numbered from 1."""
    taken = take("Mobile,Name\n919986000586, 007 \n,\n9.0,x\n")
    assert taken.said.columns == ("Mobile", "Name")
    assert taken.cells() == [("919986000586", " 007 "), ("9.0", "x")]
    assert taken.rows(*OWN) == [("in.csv", row, None, None, 0) for row in (1, 2)]
    assert (taken.file.kind, taken.file.form, taken.file.encoding, taken.file.delimiter) == (
        "plain",
        "wide",
        "utf-8",
        ",",
    )
    assert taken.file.columns == {"mobile": "Mobile"}


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("quoted", [True, False])
def test_line_endings(take, ending, last, quoted):
    """Lines end with LF, CRLF or CR, and the last one with or without."""
    name = '"b"' if quoted else "b"
    taken = take(ending.join(["Mobile,Name", "1,a", "", f"2,{name}"]) + (ending if last else ""))
    assert taken.cells() == [("1", "a"), ("2", "b")]
    assert taken.frame["_bi_row"].to_list() == [1, 2]


@pytest.mark.parametrize("quoted", ["3", '"3"'])
def test_ragged_lines_are_rejected_rows(take, quoted):
    """A line with too few or too many fields is a rejected row that names its line; the others stay."""
    taken = take(f"Mobile,Name,Store\n1\n\n2,b,c,d,e\n{quoted},b,c\n,,\n4,d")
    assert taken.cells() == [("1", None, None), ("2", "b", "c"), ("3", "b", "c"), ("4", "d", None)]
    ragged = "validate.ragged_line"
    assert taken.rows("_bi_row", "_bi_reason", "_bi_message") == [
        (1, ragged, "line 2 has 1 field, the header has 3"),
        (2, ragged, "line 4 has 5 fields, the header has 3"),
        (3, None, None),
        (4, ragged, "line 7 has 2 fields, the header has 3"),
    ]
    assert ragged in REASONS


def test_one_column(take):
    """A file with one column needs no delimiter, and a line with a comma in it is ragged."""
    taken = take("Mobile\n1\n2,x\n")
    assert taken.rows("Mobile", "_bi_reason") == [("1", None), ("2", "validate.ragged_line")]


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.csv"), ("|", "a.txt"), ("\t", "a.tsv")]
)
def test_delimiters_are_recognised(take, delimiter, name):
    """The delimiter is found where the other candidates stand in cells."""
    other = "," if delimiter != "," else ";"
    text = delimiter.join(["Mobile", f"Name{other}all"]) + "\n" + delimiter.join(["1", f"a{other}b{other}c"]) + "\n"
    taken = take({name: text})
    assert taken.file.delimiter == delimiter
    assert taken.cells() == [("1", f"a{other}b{other}c")]


def test_a_named_delimiter_rules(take):
    """The job's delimiter is taken whatever the file looks like."""
    assert take("Mobile,a;Name\n1,2;b\n", delimiter=";", columns={"mobile": "Mobile,a"}).cells() == [("1,2", "b")]
    assert take("Mobile\ta,b,c\n1\tx\n", delimiter="tab").cells() == [("1", "x")]


def test_a_missing_delimiter_is_the_hint(refused):
    """Where the only column's name looks like several, the refusal says which delimiter to set."""
    assert '[input] delimiter = "^"' in refused("Mobile^Name\n1^a\n")
    assert '[input] delimiter = "~"' in refused("Mobile~Name\n1~a\n", columns={"mobile": "Mobile"})
    assert "delimiter" not in refused("Shoe size\n1\n")


def test_excels_sep_line(take):
    """Excel's own first line names the delimiter and is no header."""
    taken = take("sep=;\r\nMobile;Name\r\n1;a,b\r\n1;2;3\r\n")
    assert taken.file.delimiter == ";"
    assert taken.cells()[0] == ("1", "a,b")
    assert taken.frame["_bi_message"][1] == "line 4 has 3 fields, the header has 2"


def test_quotes(take):
    """Quoted delimiters, newlines and doubled quotes are read; a quote inside an unquoted field is a character."""
    taken = take('Mobile,Name,Shop\n1,"Sample, Mira","two\r\nlines"\n2,"say ""hi""",5" nail\n3,"",\n')
    assert taken.cells() == [
        ("1", "Sample, Mira", "two\r\nlines"),
        ("2", 'say "hi"', '5" nail'),
        ("3", None, None),
    ]
    assert taken.frame["_bi_reason"].null_count() == 3


def test_a_quoted_header(take):
    """Column names may be quoted, even over lines, and lines are still counted right."""
    taken = take('"Mobile","Name,\nfull"\n1\n')
    assert taken.said.columns == ("Mobile", "Name,\nfull")
    assert taken.frame["_bi_message"].to_list() == ["line 3 has 1 field, the header has 2"]


@pytest.mark.parametrize(
    "lines",
    [
        ['1,"Bob', "2,Ann", "3,Cy"],  # never closed
        ['1,"Bob', "2,Ann", '3,"Cy"'],  # closed by the next one's opening
        ['1,"Bob', '2,"Ann', "3,Cy"],
        ['1,"Bob', '",x,y', "2,Ann"],  # closed, but with other fields than the header's
    ],
)
def test_a_quote_that_swallows_lines_refuses_the_file(refused, lines):
    """A quote that is not closed where its field ends, and reaches over lines, is named by the line it opens on."""
    said = refused("\n".join(["Mobile,Name", "0,Zed", *lines]) + "\n")
    assert "in.csv: a quote that opens on line 3" in said


def test_a_cell_of_a_thousand_lines_is_a_forgotten_quote(refused):
    """A record over very many lines is refused even where its fields fit."""
    said = refused('Mobile,Name\n1,"' + "x\n" * 1200 + '"\n')
    assert "line 2" in said


def test_a_cell_without_end_is_a_forgotten_quote(refused, monkeypatch):
    """A cell over lines that is larger than the csv module is let read is refused; its limit stays what it was."""
    before = csv.field_size_limit()
    monkeypatch.setattr(records, "_LONGEST_CELL", 100_000)
    assert "begins on line 2 has more than" in refused('Mobile,Name\n1,"' + ("x" * 1000 + "\n") * 200)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("behind", ["", '2,"a\nb"\n'])
def test_long_quoted_cells(take, behind):
    """A quoted cell may be as long as an unquoted one, whichever way the file is read."""
    long = "x" * 300_000
    assert take(f'Mobile,Name\n1,"{long}"\n{behind}').cells()[0] == ("1", long)


@pytest.mark.parametrize(
    ("names", "record", "several"),
    [
        ("Mobile,Name,Shop", '919986000501,"Bob,x\n919986000502,5",y', True),
        ("Mobile,Name,Shop", '919986000501,"Bob\n919986000502,Ann,5",y', True),  # other fields than the header's
        ("Mobile,Name,Shop", '919986000501,"Bob, 5\nof Pune, x",y', False),
        ("Name,Mobile,Shop", 'Zed,919986000501,"x\nBob,919986000502,y"', True),
        ("Email,Name", 'a@example.com,"Bob\nb@example.com,Ann"', True),
        ("Email,Name", 'a@example.com,"12 High St, Flat 4\nPune, 411001"', False),
        ("External Id,Name", 'A7,"Bob\nA8,Ann"', True),
        ("External Id,Name,City", 'A7,"12 High St\nSpringfield",Pune', False),
        ("Mobile", '"919986000501\n919986000502"', True),
        ("type,value", 'mobile,"919986000501\nmobile,919986000502"', True),
    ],
)
def test_customers_in_one_quoted_record(take, names, record, several):
    """A record over several lines is one cell, unless a line behind its first would be a customer of its own."""
    taken = take(f"{names}\n{record}\n")
    assert taken.rows("_bi_row", "_bi_reason") == [(1, "validate.misquoted_line" if several else None)]
    if several:
        assert taken.frame["_bi_message"][0].startswith("lines 2 to 3 ")


@pytest.mark.parametrize("blank", [",,", '"","",""', ",,,,,", ""])
@pytest.mark.parametrize("name", ["b", '"b"', '"b\nc"'])
def test_rows_of_delimiters_are_no_rows(take, blank, name):
    """A line of nothing but delimiters is no row, whichever way the file is read, and gets no number."""
    if '"' not in name and '"' in blank:
        name = f'"{name}"'
    taken = take(f"Mobile,Name,Shop\n{blank}\n1,{name},c\n{blank}\n{blank}\n2,d,\n{blank}")
    assert taken.rows("Mobile", "_bi_row") == [("1", 1), ("2", 2)]


def test_quotes_escaped_by_another_character(take):
    """With `escape`, a quote behind that character is a character of the cell; elsewhere it stays, as in a path."""
    text = 'Mobile,Name\n1,"say \\"hi\\", ok"\n2,"C:\\temp"\n3,"ends in \\\\"\n4,\\N\n'
    without = take(text)
    assert without.frame["_bi_reason"][0] == "validate.misquoted_line"
    assert "[input] escape" in without.frame["_bi_message"][0]
    taken = take(text, escape="\\")
    assert taken.cells() == [("1", 'say "hi", ok'), ("2", "C:\\temp"), ("3", "ends in \\"), ("4", "\\N")]
    assert taken.frame["_bi_reason"].null_count() == 4


def test_an_escape_across_pieces(take, monkeypatch):
    """An escape character and its quote may lie across two pieces of the reading."""
    text = 'Mobile,Name\n1,"a\\"b\\\\"\n2,"\\\\\\\\\\"c"\n'
    for size in range(1, 12):
        monkeypatch.setattr(decoding, "_PIECE", size)
        assert take(text, escape="\\").cells() == [("1", 'a"b\\'), ("2", '\\\\"c')]


def test_quotes_inside_a_quoted_field(take):
    """A line whose quotes are not doubled is a rejected row, and the lines behind it are read."""
    taken = take('Mobile,Name\n1,"Bob "the B" S"\n2,"ok, yes"\n')
    assert taken.rows("_bi_row", "_bi_reason") == [(1, "validate.misquoted_line"), (2, None)]
    assert taken.frame["_bi_message"][0] == "line 2 has a quote that is closed in the middle of a field"
    assert taken.cells()[1] == ("2", "ok, yes")
    assert "validate.misquoted_line" in REASONS


def test_many_quoted_rows(take, monkeypatch):
    """Rows that Python reads in several pieces keep their order and numbers."""
    monkeypatch.setattr(records, "_ROWS", 7)
    taken = take("Mobile,Name\n" + "".join(f'{n},"n,\n{n}"\n' for n in range(50)))
    assert taken.cells() == [(str(n), f"n,\n{n}") for n in range(50)]
    assert taken.frame["_bi_row"].to_list() == list(range(1, 51))


# --- encodings


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "cp1252", "shift_jis"]
)
@pytest.mark.parametrize("name", ["Zoé", '"Zoé, R"'])
def test_encodings_are_recognised(take, encoding, name):
    """A file is read in the encoding its bytes show, and what was only assumed is said."""
    name = name.replace("Zoé", "山田太郎") if encoding == "shift_jis" else name
    taken = take(f"Mobile,Name\r\n919986000586,{name}\r\n".encode(encoding))
    assert taken.cells() == [("919986000586", name.strip('"'))]
    assumed = encoding in {"utf-16-le", "utf-16-be", "cp1252", "shift_jis"}
    assert bool(taken.file.notes) == assumed
    if assumed:
        assert taken.file.encoding in taken.file.notes[0]


def test_utf16_marks_both_ways(take):
    """Big-endian UTF-16 with a byte-order mark is read as well."""
    taken = take("Mobile,Name\n1,Zoé\n".encode("utf-16-be").join([b"\xfe\xff", b""]))
    assert taken.cells() == [("1", "Zoé")]


def test_a_legacy_byte_far_inside(take):
    """A first byte beyond ASCII megabytes inside the file still tells its encoding."""
    lines = "".join(f"{n},plain name\n" for n in range(150_000))
    taken = take(b"Mobile,Name\n" + lines.encode() + "7,Zoé\n".encode("cp1252"))
    assert taken.file.encoding == "cp1252"
    assert taken.cells()[-1] == ("7", "Zoé")


def test_a_character_across_pieces(take, monkeypatch):
    """A character of several bytes may lie across two pieces of the reading."""
    monkeypatch.setattr(decoding, "_PIECE", 5)
    for encoding in ("utf-8", "utf-16", "cp932"):
        taken = take("Mobile,Name\r\n1,山田\r\n2,太郎\r\n".encode(encoding), encoding=encoding)
        assert taken.cells() == [("1", "山田"), ("2", "太郎")]


def test_a_named_encoding_rules(take, refused):
    """The job's encoding is taken, and bytes it cannot mean are refused with their line."""
    text = "Mobile,Name\n1,a\n2,Zoé\n"
    assert take(text.encode("cp1250"), encoding="cp1250").cells()[1] == ("2", "Zoé")
    assert "line 3 has bytes that are not utf-8" in refused(text.encode("cp1252"), encoding="utf-8")
    assert "line 3 has bytes that are not ascii" in refused(text, encoding="ascii")
    assert "has bytes that are not utf-8" in refused(text.encode("utf-16"), encoding="utf-8")


def test_a_truncated_character(refused):
    """A file cut in the middle of a character is refused where its encoding is known."""
    assert "line 2 has bytes" in refused("Mobile,Name\n1,Zoé".encode("utf-8-sig")[:-1])


def test_zero_bytes(refused):
    """A text file with a zero byte, such as one whose end was never written, is refused with the line."""
    assert "line 3 has a zero byte" in refused("Mobile,Name\n1,a\n2,\0\0\0\0\0\0")


# --- column names


@pytest.mark.parametrize("content", ["", "\ufeff", "\n\r\n\n"])
def test_an_empty_file(refused, content):
    """A file without a header is refused."""
    assert "in.csv is empty" in refused(content)


def test_a_header_and_no_rows(take):
    """A file with a header and no rows has no rows."""
    assert take("Mobile,Name\n").said.rows == 0
    assert take('"Mobile","Name"').said.rows == 0


def test_names_lose_what_is_invisible_around_them(take):
    """Column names are kept without surrounding white space and byte-order marks."""
    assert take(" Mobile\u00a0,\ufeffName \n1,a\n").said.columns == ("Mobile", "Name")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Mobile,Name, Mobile", '"Mobile" stands more than once, and is used'),
        ("919986000586,Mira", "looks like a customer"),
        ("mira@example.com,Mira", "looks like a customer"),
        ("Mobile,+91 99860-00586", "looks like a customer"),
        ("Mobile,9.2E+11", "looks like a customer"),
        ("Mobile,_bi_mine", "_bi_mine"),
        ("Mobile,_bi_row", "but not _bi_outcome, _bi_target, _bi_source_file"),
        ("Mobile,*", "cannot be the name of a column"),
        ("Mobile,^a.*$", "cannot be the name of a column"),
        ("Asha Rao,mira@example.com", "header = false"),
        ("Order 99860005861,Store", '"…", "Store"'),
        ('Mobile,"Name', "has a quote that is not closed"),
        ("Name,Store", '"Name", "Store"'),
    ],
)
def test_headers_that_will_not_do(refused, header, said):
    """A header that would lose or mix up columns is refused, and no refusal shows a customer."""
    message = refused(header + "\n1,a\n")
    assert said in message
    assert "99860" not in message
    assert "mira@" not in message


def test_a_header_that_never_ends(refused):
    """A first line of megabytes is no header."""
    assert "does not end" in refused("Mobile," * 400_000)


@pytest.mark.parametrize(
    ("header", "form", "columns"),
    [
        ("Mobile No.,Name", "wide", {"mobile": "Mobile No."}),
        ("mobile_number,E-mail", "wide", {"mobile": "mobile_number", "email": "E-mail"}),
        ("Customer ID,Account Id", "wide", {"id": "Customer ID", "account_id": "Account Id"}),
        ("PHONE,Email Address,Ext_id", "wide", {"external_id": "Ext_id", "mobile": "PHONE", "email": "Email Address"}),
        ("MSISDN,Source,Account Id", "wide", {"mobile": "MSISDN", "source": "Source", "account_id": "Account Id"}),
        ("type,value,channel", "long", {"identifier_type": "type", "identifier": "value", "source": "channel"}),
        (
            "Identifier Name,Identifier Value",
            "long",
            {"identifier_type": "Identifier Name", "identifier": "Identifier Value"},
        ),
        ("Identifier,Name", "values", {"identifier": "Identifier"}),
        ("Mobile,Value", "wide", {"mobile": "Mobile"}),
        ("Mobile,Type", "wide", {"mobile": "Mobile"}),
    ],
)
def test_usual_names_are_found(header, form, columns):
    """Columns are found by their usual names, in any case, with or without blanks and points."""
    roles = find_roles(header.split(","), ColumnsSection(), "in.csv")
    assert (roles.form, roles.columns, roles.notes) == (form, columns, ())


def test_the_long_form_wins_where_both_are_guessed():
    """With type and value columns the typed ones are not read, and that is said."""
    roles = find_roles(["type", "value", "Mobile", "Phone"], ColumnsSection(), "in.csv")
    assert roles.form == "long"
    assert roles.notes == ('identifiers are read from "type", "value", not from "Mobile", "Phone"',)


def test_a_mapping_beats_a_guess():
    """A mapped column of either form puts the other form's guessed columns aside."""
    names = ["type", "value", "M", "Mobile", "Email"]
    roles = find_roles(names, ColumnsSection(mobile="M"), "in.csv")
    assert (roles.form, roles.columns) == ("wide", {"mobile": "M", "email": "Email"})
    roles = find_roles(names, ColumnsSection(identifier="M"), "in.csv")
    assert (roles.form, roles.columns) == ("long", {"identifier_type": "type", "identifier": "M"})


@pytest.mark.parametrize(
    ("names", "mapping", "said"),
    [
        (["Mobile", "Phone"], {}, '"Mobile", "Phone" could each be the mobile'),
        (["Mobile", "Source", "Channel"], {}, '"Source", "Channel" could each be the source'),
        (["type", "Type", "value"], {}, "could each be the identifier_type"),
        (["Mobile No", "Mail"], {"mobile": "Mobil No"}, 'mobile = "Mobil No" (the nearest is "Mobile No")'),
        (["a", "b"], {"mobile": "a", "identifier": "b"}, "both a value column and a column per identifier type"),
        (["a", "b"], {"mobile": "a", "id": "a"}, '"a" more than one role'),
        (["a", "b"], {"identifier_type": "a"}, "no column holds the identifiers"),
    ],
)
def test_mappings_that_will_not_do(names, mapping, said):
    """What is missing or could mean two columns is refused by name, and the refusal shows lines to write."""
    with pytest.raises(InputRefused) as caught:
        find_roles(names, ColumnsSection(**mapping), "in.csv")
    assert said in caught.value.message
    assert caught.value.hint


def test_all_missing_columns_are_named_at_once():
    """Every mapped column that the file does not have is named."""
    with pytest.raises(InputRefused, match=r'id = "x".*mobile = "y"'):
        find_roles(["Mobile"], ColumnsSection(id="x", mobile="y"), "in.csv")


def test_a_refusal_shows_what_to_write(refused):
    """Where nothing is recognised, the hint holds the lines for the job file."""
    assert '[input.columns]\nmobile = "…"' in refused("Name,Store\n1,2\n")


@pytest.mark.parametrize("name", ["2026-11", "202611", "Store 12345678901", "Q1/2026", "id"])
def test_ordinary_names_are_no_customers(name):
    """Months, years and numbered names are column names."""
    assert kept_names(["Mobile", name], "in.csv") == ["Mobile", name]


# --- several files


def test_several_files(take):
    """Files follow each other in the order given, with the columns of all, numbered from 1 each."""
    taken = take({"b/two.csv": "Mobile,A\n1,a\n2,b\n", "one.csv": 'B,Mobile\n"x, y",3\n', "three.csv": "Mobile\n"})
    assert taken.said.columns == ("Mobile", "A", "B")
    assert taken.rows("Mobile", "A", "B", "_bi_source_file", "_bi_row") == [
        ("1", "a", None, "b/two.csv", 1),
        ("2", "b", None, "b/two.csv", 2),
        ("3", None, "x, y", "one.csv", 1),
    ]
    assert [(file.name, file.rows) for file in taken.said.files] == [("b/two.csv", 2), ("one.csv", 1), ("three.csv", 0)]


def test_a_file_given_twice_is_taken_once(tmp_path):
    """Globs may overlap."""
    (tmp_path / "in.csv").write_text("Mobile\n1\n")
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / "in.csv", tmp_path / "sub" / ".." / "in.csv"]
    said = take_in(paths, base=tmp_path, settings=InputSection(), target=TARGET, out=tmp_path / "input.parquet")
    assert said.rows == 1


def test_files_outside_the_folder_are_named_from_it(tmp_path):
    """A file elsewhere has a relative name with forward slashes."""
    (tmp_path / "in.csv").write_text("Mobile\n1\n")
    (tmp_path / "jobs").mkdir()
    said = take_in(
        [tmp_path / "in.csv"],
        base=tmp_path / "jobs",
        settings=InputSection(),
        target=TARGET,
        out=tmp_path / "input.parquet",
    )
    assert said.files[0].name == "../in.csv"


def test_names_with_pattern_characters(take):
    """A file's name is never taken for a pattern."""
    assert take({"in[1]*.csv": "Mobile\n1\n", "in1.csv": "Mobile\n2\n"}).said.rows == 2


def test_files_that_are_not_there(tmp_path):
    """No files, a missing file and a folder are refused."""
    for paths, said in (
        ([], "no input file"),
        ([tmp_path / "no.csv"], "no.csv does not exist"),
        ([tmp_path], "is no file"),
    ):
        with pytest.raises(InputRefused, match=said):
            take_in(paths, base=tmp_path, settings=InputSection(), target=TARGET, out=tmp_path / "input.parquet")


def test_the_same_input_gives_the_same_bytes(take, tmp_path):
    """`input.parquet` is the same byte for byte."""
    text = "Mobile,Name\n" + "".join(f"{n},name {n % 7}\n" for n in range(300_000))
    take({"a.csv": text, "b.csv": 'Mobile\n"1"\n'})
    first = (tmp_path / "input.parquet").read_bytes()
    taken = take({"a.csv": text, "b.csv": 'Mobile\n"1"\n'})
    assert (tmp_path / "input.parquet").read_bytes() == first
    assert taken.frame["_bi_row"].to_list() == [*range(1, 300_001), 1]


def test_a_digest_of_what_was_read(take):
    """Each file's SHA-256 and size are those of its bytes, also where it had to be read anew."""
    for content in (b"Mobile\n1\n", "Mobile\n1\n".encode("utf-16")):
        taken = take(content)
        assert taken.file.sha256 == hashlib.sha256(content).hexdigest()
        assert taken.file.size == len(content)


def test_a_file_that_changes_while_it_is_read(take, tmp_path, monkeypatch):
    """A file that is still being written is refused, and nothing is left behind."""
    write = intake._write

    def write_and_append(frame, to, read):
        write(frame, to, read)
        with (tmp_path / "in.csv").open("a") as file:
            file.write("2\n")

    monkeypatch.setattr(intake, "_write", write_and_append)
    with pytest.raises(InputRefused, match=r"in\.csv changed while it was read"):
        take("Mobile\n1\n")
    assert not (tmp_path / "input.parquet").exists()


# --- Parquet


def parquet(frame):
    bytes_ = io.BytesIO()
    frame.write_parquet(bytes_)
    return bytes_.getvalue()


def test_parquet_becomes_text_exactly(take):
    """Numbers, decimals, dates and the rest become the text that means the same."""
    frame = pl.DataFrame(
        {
            " mobile ": [919986000586.0, float("nan"), None],
            "id": [9223372036854775807, None, -1],
            "Card": pl.Series([2**64 - 1, 0, 1], dtype=pl.UInt64),
            "points": [Decimal("12345678901234567890.10"), None, Decimal("0.00")],
            "share": [0.1, 1e-7, 1e300],
            "day": [dt.date(2026, 11, 1), None, dt.date(1999, 1, 2)],
            "at": [dt.datetime(2026, 11, 1, 2, 3, 4, tzinfo=dt.UTC), None, None],
            "vip": [True, False, None],
            "tier": pl.Series(["gold", None, "none"], dtype=pl.Categorical),
            "note": ["", " x ", "ü"],
            "nothing": pl.Series([None, None, None]),
        }
    )
    taken = take({"in.parquet": parquet(frame)}, columns={"id": "id"})
    assert taken.cells() == [
        (
            *("919986000586", "9223372036854775807", "18446744073709551615", "12345678901234567890.10", "0.1"),
            *("2026-11-01", "2026-11-01T02:03:04.000000+00:00", "true", "gold", None, None),
        ),
        (None, None, "0", None, "1e-7", None, None, "false", None, " x ", None),
        (None, "-1", "1", "0.00", "1e+300", "1999-01-02", None, None, "none", "ü", None),
    ]
    assert taken.file.columns == {"mobile": "mobile", "id": "id"}
    assert taken.file.encoding == taken.file.delimiter == ""


@pytest.mark.parametrize(("dtype", "limit"), [(pl.Float64, 2**53), (pl.Float32, 2**24)])
def test_floats_that_cannot_be_exact(take, dtype, limit):
    """A float from the point on where neighbours fall together rejects its row, but only in a column of identifiers."""
    values = [float(limit - 1), float(limit), float("nan"), -float(limit), 1.5]
    frame = pl.DataFrame(
        {"Customer ID": values, "Points": values}, schema=dict.fromkeys(("Customer ID", "Points"), dtype)
    )
    taken = take({"in.parquet": parquet(frame)})
    unreadable = "validate.unreadable_value"
    assert taken.frame["_bi_reason"].to_list() == [None, unreadable, None, unreadable, None]
    assert taken.frame["Customer ID"].to_list()[::4] == [str(limit - 1), "1.5"]
    assert str(limit) not in taken.frame["_bi_message"][1]
    others = take({"in.parquet": parquet(frame.with_columns(Mobile=pl.lit("1")))}, columns={"id": "Mobile"})
    assert others.frame["_bi_reason"].null_count() == 5


def test_whole_floats_have_no_exponent():
    """Every whole float that is held exactly is written as an integer."""
    dice = random.Random(7)
    numbers = [10**n for n in range(16)] + [2**n for n in range(53)] + [dice.randrange(2**53) for _ in range(2000)]
    frame = pl.DataFrame({"x": [float(number) for number in numbers]})
    text = _as_text(pl.col("x"), pl.Float64())
    assert text is not None
    assert frame.select(text)["x"].to_list() == [str(number) for number in numbers]


def test_parquet_without_rows(take):
    """A Parquet file may have no rows."""
    assert take({"in.parquet": parquet(pl.DataFrame({"mobile": []}, schema={"mobile": pl.Int64}))}).said.rows == 0


def test_columns_that_are_no_text(take, refused):
    """Lists and structs are kept as JSON, bytes left out and named; as an identifier they name nobody."""
    frame = pl.DataFrame({"id": [1], "tags": [["a"]], "more": [{"a": 1}], "mobile": [b"1"]})
    message = refused({"in.parquet": parquet(frame)}, columns={"id": "id"})
    assert 'column "mobile" is the mobile, but holds Binary' in message
    taken = take({"in.parquet": parquet(frame.rename({"mobile": "raw"}))})
    assert taken.said.columns == ("id", "tags", "more")
    assert taken.rows("tags", "more") == [('["a"]', '{"a":1}')]
    assert len(taken.file.notes) == 1
    several = take({"in.parquet": parquet(pl.DataFrame({"mobile": [["919986000501"]]}))})
    assert several.rows("_bi_reason") == [("validate.unreadable_value",)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.parquet", b"Mobile\n1\n", "no whole Parquet file"),
        ("in.parquet", b"PAR1 and no more", "no whole Parquet file"),
        ("in.parquet", b"", "no whole Parquet file"),
        ("in.csv", b"PAR1 and no more", "no whole Parquet file"),
        ("in.csv", b"\x1f\x8b\x08", "cannot be unpacked"),
        ("in.xlsx", b"Mobile\n1\n", "no workbook"),
        ("in.xlsx", b"PK\x03\x04 and no more", "cannot be read as a workbook"),
        ("in.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "cannot be read as a workbook"),
    ],
)
def test_files_that_are_not_what_they_say(refused, name, content, said):
    """What a file is, is told by its bytes, and what we do not read is refused by name."""
    assert said in refused({name: content})


def test_parquet_cut_short(refused):
    """A Parquet file whose end is missing is refused."""
    whole = parquet(pl.DataFrame({"Mobile": [str(n) for n in range(1000)]}))
    assert "in.parquet is no whole Parquet file" in refused({"in.parquet": whole[: len(whole) // 2]})


def test_parquet_with_a_hole(refused):
    """A Parquet file whose rows cannot be read is refused, though its end is whole."""
    whole = parquet(pl.DataFrame({"Mobile": [str(n) for n in range(1000)]}))
    assert "in.parquet" in refused({"in.parquet": whole[:4] + bytes(1000) + whole[1004:]})


def test_parquet_without_columns(refused):
    """A Parquet file without columns is refused."""
    assert "has no columns" in refused({"in.parquet": parquet(pl.DataFrame())})


def test_an_id_is_not_guessed(take, refused):
    """What looks like ids beside other identifiers is refused with both ways out; alone it is taken."""
    text = "Customer ID,Mobile\n555567000,919986000501\n"
    said = refused(text)
    assert 'id = "Customer ID"' in said
    assert 'ignore = ["Customer ID"]' in said
    assert take(text, columns={"id": "Customer ID"}).file.columns == {"id": "Customer ID", "mobile": "Mobile"}
    left = take(text, ignore=["Customer ID"])
    assert (left.file.columns, left.said.columns) == ({"mobile": "Mobile"}, ("Customer ID", "Mobile"))
    assert take("Customer ID,Name\n555567000,x\n").file.columns == {"id": "Customer ID"}


# --- layouts


def test_a_file_without_column_names(take):
    """Without a header the first line is a customer, and columns are named by their number, in text and workbooks."""
    one = [("919986000501", "Mira"), ("919986000502", "Zoe")]
    mapping = {"mobile": "column_1"}
    text = "919986000501,Mira\n919986000502,Zoe\n"
    quoted = '919986000501,"Mira"\n919986000502,"Zoe"\n'

    def fill(book):
        page = book.add_worksheet()
        for number, cells in enumerate(one):
            page.write_row(number, 0, cells)

    sheet = workbook(fill)
    for name, content in (("a.csv", text), ("b.csv", quoted), ("c.xlsx", sheet)):
        taken = take({name: content}, header=False, columns=mapping)
        assert (taken.said.columns, taken.cells()) == (("column_1", "column_2"), one)


def test_names_below_a_title(take, refused):
    """What stands above the row of column names is left out, and that is said."""
    text = "Customers of November\n\nMobile,Name\n919986000501,Mira\n"

    def fill(book):
        sheet = book.add_worksheet()
        sheet.write(0, 0, "Customers of November")
        sheet.write_row(2, 0, ["Mobile", "Name"])
        sheet.write_row(3, 0, ["919986000501", "Mira"])

    for name, content in (("a.csv", text), ("b.csv", text.replace("Mira", '"Mira"')), ("c.xlsx", workbook(fill))):
        taken = take({name: content}, header_row=3)
        assert (taken.said.columns, taken.cells()) == (("Mobile", "Name"), [("919986000501", "Mira")])
        assert "above" in taken.file.notes[0]
    assert "nothing from line 9 on" in refused(text, header_row=9)


def test_a_utf8_file_with_a_broken_line(refused, take):
    """Where other lines are valid UTF-8, a line that is not refuses the file by its number; nothing is guessed."""
    lines = ["Email,Name", "a@x.org,Zoé", "b@x.org,plain", "c@x.org,Renée"]
    broken = "\n".join(lines).encode() + b"\nd@x.org,Andr\xe9\n"
    assert "line 5 has bytes that are not UTF-8, and other lines are UTF-8" in refused(broken)
    assert take(broken, encoding="cp1252").frame.height == 4


def test_letters_under_a_guessed_encoding(take):
    """A letter beyond ASCII that was read under a guessed encoding names nobody; the rest of the row may be so."""
    taken = take("External Id,Name\nAndré,x\nBob,Renée\n".encode("cp1252"))
    assert taken.frame["_bi_reason"].to_list() == ["validate.unreadable_value", None]
    assert "the file's encoding was guessed (cp1252)" in taken.frame["_bi_message"][0]


# --- our own ledgers


def ledger(*rows, run="20261120T093015123Z-7f3a", target=TARGET):
    """A ledger's text; a row is mobile, first file, first row, outcome, attempts."""
    text = io.StringIO(newline="")
    out = csv.writer(text)
    out.writerow(["Mobile", "Name", *LEDGER_COLUMNS])
    for mobile, source, row, outcome, attempts in rows:
        own = dict.fromkeys(LEDGER_COLUMNS, "") | {
            "_bi_run": run if outcome else "",
            "_bi_target": target if outcome else "",
            "_bi_source_file": source,
            "_bi_row": row,
            "_bi_outcome": outcome,
            "_bi_identifier": "not the original",
            "_bi_attempts": attempts,
        }
        out.writerow([mobile, "Sample, Mira", *own.values()])
    return text.getvalue()


FAILURES = [
    ("1", "inbox/a.csv", "3", "failed", "2"),
    ("2", "inbox/a.csv", "7", "rejected", "0"),
    ("3", "inbox/b.csv", "3", "not_attempted", ""),
]


def test_a_failure_ledger_keeps_its_lineage(take):
    """Rows of a failure ledger keep their first file and row and their attempts, and only their original columns."""
    taken = take(ledger(*FAILURES))
    assert taken.said.columns == ("Mobile", "Name")
    assert taken.rows("Mobile", "_bi_source_file", "_bi_row", "_bi_attempts") == [
        ("1", "inbox/a.csv", 3, 2),
        ("2", "inbox/a.csv", 7, 0),
        ("3", "inbox/b.csv", 3, 0),
    ]
    assert taken.file.kind == "failure_ledger"
    assert taken.file.runs == ("20261120T093015123Z-7f3a",)
    assert taken.file.columns == {"mobile": "Mobile"}
    assert "failure ledger" in taken.file.notes[0]


def test_a_failure_ledger_mended_in_a_spreadsheet(take):
    """Excel's byte-order mark and semicolons, 3.0 for 3, and a row added by hand do not harm the lineage."""
    rows = [("1", "inbox/a.csv", "3.0", "failed", "2"), ("2", "inbox/a.csv", " 7,0", "rejected", ""), ("9", *[""] * 4)]
    mended = io.StringIO(newline="")
    csv.writer(mended, delimiter=";").writerows(csv.reader(io.StringIO(ledger(*rows), newline="")))
    text = "\ufeff" + mended.getvalue()
    taken = take(text)
    assert taken.rows("Mobile", "_bi_source_file", "_bi_row") == [
        ("1", "inbox/a.csv", 3),
        ("2", "inbox/a.csv", 7),
        ("9", "in.csv", 3),
    ]


def test_a_failure_ledger_as_parquet(take):
    """A Parquet ledger with typed columns is recognised as well."""
    frame = pl.read_csv(io.StringIO(ledger(*FAILURES)), infer_schema=False).with_columns(
        pl.col("_bi_row").cast(pl.UInt64)
    )
    taken = take({"failure.parquet": parquet(frame)})
    assert taken.file.kind == "failure_ledger"
    assert taken.frame["_bi_row"].to_list() == [3, 7, 3]


@pytest.mark.parametrize("outcome", ["succeeded", "duplicate", "already_issued"])
def test_ledgers_of_what_was_issued(take, refused, outcome):
    """A ledger of issued rows is plain input for another target, and refused for its own, by any of its names."""
    rows = [("1", "inbox/a.csv", "3", outcome, "1"), ("2", "inbox/a.csv", "4", outcome, "1")]
    taken = take(ledger(*rows, target=OTHER))
    assert taken.file.kind == "plain"
    assert taken.said.columns == ("Mobile", "Name")
    assert taken.rows("_bi_source_file", "_bi_row", "_bi_attempts") == [("in.csv", 1, 0), ("in.csv", 2, 0)]
    assert "another target" in taken.file.notes[0]
    for target in (TARGET, TARGET.split()[1]):
        assert "this same target" in refused(ledger(*rows, target=target))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("1", "a.csv", "3", "unknown", "1")], "row 1 is unknown of run 20261120T093015123Z-7f3a"),
        ([*FAILURES, ("1", "a.csv", "3", "unknown", "1")], "row 4 is unknown"),
        ([*FAILURES, ("1", "a.csv", "3", "succeeded", "1")], "mixes rows"),
        ([("1", "a.csv", "3", "done", "1")], "row 1 has an _bi_outcome that is none"),
        ([*FAILURES, ("1", "a.csv", "9", "", "")], "row 4 has lost"),
        ([*FAILURES, ("1", "", "9", "failed", "")], "row 4 has lost"),
        ([*FAILURES, ("1", "a.csv", "x", "failed", "")], "row 4 has lost"),
        ([*FAILURES, ("1", "a.csv", "0", "failed", "")], "row 4 has lost"),
        ([("1", "a.csv", "9", "", "")], "no row says its outcome"),
        ([*FAILURES, FAILURES[1]], "row 7 of inbox/a.csv stands 2 times"),
    ],
)
def test_ledgers_that_are_refused(refused, rows, said):
    """What may have been issued, or has lost its evidence, is refused by row, with what to do instead."""
    message = refused(ledger(*rows, target=OTHER if "mixes" in said else TARGET))
    assert said in message
    assert "None" not in message


def test_a_ledger_that_does_not_say_its_target(refused):
    """A row that was issued for nobody knows what is refused."""
    assert "do not say their _bi_target" in refused(ledger(("1", "a.csv", "3", "succeeded", "1"), target=""))


def test_a_ledger_beside_the_file_it_came_from(refused):
    """A row that stands twice, once by its lineage, is refused."""
    files = {"a.csv": "Mobile\n1\n2\n", "failure.csv": ledger(("2", "a.csv", "2", "failed", "1"))}
    assert "row 2 of a.csv stands 2 times in the input (a.csv, failure.csv)" in refused(files)


@pytest.mark.parametrize("reason", ["validate.ragged_line", "validate.misquoted_line", "validate.unreadable_value"])
def test_a_row_that_could_not_be_read_and_comes_back(take, reason):
    """A ledger has what was made of such a row's cells: they are not taken for what they say until somebody says so."""
    columns = "Mobile,_bi_outcome,_bi_reason,_bi_target,_bi_source_file,_bi_row"
    lines = [
        f"250,rejected,{reason},t,a.csv,3",
        "251,rejected,,t,a.csv,4",
        "252,rejected,validate.mobile_length,t,a.csv,5",
    ]
    taken = take({"failure.csv": "\n".join([columns, *lines])})
    assert taken.rows("_bi_reason", "_bi_row") == [(reason, 3), (None, 4), (None, 5)]
    assert "_bi_reason" in taken.rows("_bi_message")[0][0]


def test_an_empty_ledger(take):
    """A ledger with only its header has no rows."""
    taken = take(ledger())
    assert taken.said.rows == 0
    assert taken.said.columns == ("Mobile", "Name")


# --- the samples


@pytest.mark.parametrize(
    ("name", "form", "rows", "rejected"),
    [
        ("customers.csv", "wide", 41, 1),
        ("members_long.csv", "long", 16, 0),
        ("mobiles.csv", "wide", 10, 0),
        ("members.parquet", "wide", 12, 0),
    ],
)
def test_samples(tmp_path, name, form, rows, rejected):
    """The sample inputs are taken in with no more of a mapping than whose ids the customer ids are."""
    own = {"customers.csv": "Customer ID", "members.parquet": "customer_id"}
    settings = InputSection(columns=ColumnsSection(id=own.get(name)))
    said = take_in([SAMPLES / name], base=SAMPLES, settings=settings, target=TARGET, out=tmp_path / "input.parquet")
    assert (said.files[0].form, said.rows) == (form, rows)
    assert pl.read_parquet(tmp_path / "input.parquet")["_bi_reason"].is_not_null().sum() == rejected


def test_the_samples_are_invented():
    """Every address in the samples is of example.com."""
    for path in SAMPLES.glob("*.csv"):
        assert set(re.findall(r"@(\S+?)[,\s\"]", path.read_text(encoding="utf-8").lower())) <= {"example.com"}


def test_columns_without_a_name_or_with_another_s(take):
    """They are kept, under their place or with a number, where nothing is read from them."""
    found = take("Mobile,,Notes, Notes,\n919986000501,a,b,c,\n919986000502,,,,\n")
    assert found.said.columns == ("Mobile", "column_2", "Notes", "Notes [2]", "column_5")
    assert found.frame.select("column_2", "Notes", "Notes [2]", "column_5").row(0) == ("a", "b", "c", None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Customers of May\nMobile,Name\n919986000501,a\n", 2),
        ("Customers of May,,\n,,\nMobile,Name,Shop\n919986000501,a,b\n", 3),
    ],
)
def test_a_title_above_the_names(refused, text, line):
    """The line with the names is found and said."""
    message = refused(text)
    assert f"line {line} looks like the column names" in message
    assert f"header_row = {line}" in message


@pytest.mark.parametrize(
    ("header", "role"),
    [
        ("Phone 1 - Value", "mobile"),
        ("E-mail 1 - Value", "email"),
        ("SMS Phone Number", "mobile"),
        ("Email Address", "email"),
    ],
)
def test_names_of_usual_exports(take, header, role):
    """Address books and mailing programs name them so."""
    cell = "919986000501" if role == "mobile" else "a@example.com"
    assert take(f"Name,{header}\nx,{cell}\n").said.files[0].columns == {role: header}


def test_names_that_a_job_may_give():
    """A job's paths may end in whatever can be read: every kind of workbook, and what is packed."""
    assert {*intake._WORKBOOKS, *unpacking._ENDINGS} <= {f".{ending}" for ending in ENDINGS}
