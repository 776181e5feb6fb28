"""What holds of every file and every cell, looked for by hypothesis."""

import csv
import io
import re
import string
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from bulkissue.input.identifiers import identified as at_once
from bulkissue.input.identifiers import identify
from bulkissue.input.intake import take_in
from bulkissue.input.mobiles import ambiguous_mobiles
from bulkissue.input.records import Layout, whole_lines
from bulkissue.job.model import IdentifiersSection, InputSection
from bulkissue.outcomes import IDENTIFIER_TYPES, REASONS

CARRIED = dict.fromkeys(IDENTIFIER_TYPES)
SHAPES = {
    "id": r"[1-9][0-9]{0,18}",
    "mobile": r"[1-9][0-9]{8,14}",
    "email": r"[^\s@]{1,64}@[^\s@]+\.[^\s@]+",
    "external_id": r"(?s).{1,50}",
}
# Zero bytes are refused, and lone surrogates are no text.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
messy_numbers = st.text("0123456789+()-./ ,eE'\u00a0\u200b\u0660x", max_size=22)
messy_emails = st.text(string.ascii_letters + "@@..-_+ é\u200b<>", max_size=30)
cells = st.one_of(any_text, messy_numbers, messy_emails, st.none())
calm = settings(deadline=None, max_examples=80)


def identified(role, values, **options):
    rows = pl.LazyFrame(
        {"x": values, "_bi_reason": [None] * len(values), "_bi_message": [None] * len(values)},
        schema=dict.fromkeys(("x", "_bi_reason", "_bi_message"), pl.String),
    )
    return identify(rows, {role: "x"}, "wide", IdentifiersSection(**options), CARRIED).collect()


@calm
@given(st.sampled_from(IDENTIFIER_TYPES), st.lists(cells, max_size=20), st.sampled_from([None, "91", "1"]))
def test_every_row_has_an_identifier_or_a_reason(role, values, code):
    """Whatever a cell holds, its row has an identifier of the right shape, or else a known reason and a message."""
    frame = identified(role, values, country_code=code)
    assert frame.height == len(values)
    for identifier, reason, message in frame.select("identifier", "reason", "message").rows():
        assert (identifier is None) == (reason is not None) == (message is not None)
        if identifier is None:
            assert reason in REASONS
        else:
            assert re.fullmatch(SHAPES[role], identifier)
            if role == "id":
                assert int(identifier) < 2**63


numbers = st.integers(10**7, 10**16).map(str)
usual = st.one_of(
    numbers, st.sampled_from(["1234567890123", "A@ex.com", "é@ex.com", "id-7", "007", "a@b.c", "0" * 51]), cells
)
sources = st.sampled_from(["INSTORE", "WEB_ENGAGE", "instore", "web engage", " ALL", "", None, "POS"])
types = st.sampled_from([*IDENTIFIER_TYPES, "Mobile", " email", "external id", "", None, "fax"])


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(["wide", "long", "values"]), st.integers(0, 12))
def test_the_short_way_leads_to_the_same_end(data, form, height):
    """Rows in order as they stand, among others, get what the rules give them: every column, in the same order."""
    columns = {
        "wide": {"mobile": "a", "email": "b", "id": "c"},
        "long": {"identifier_type": "t", "identifier": "a"},
        "values": {"identifier": "a"},
    }[form] | data.draw(st.sampled_from([{}, {"source": "s"}, {"source": "s", "account_id": "n"}]))
    kinds = {"t": types, "s": sources, "n": cells, "_bi_reason": st.sampled_from([None, None, "validate.ragged_line"])}
    names = [*columns.values(), "_bi_reason"]
    drawn = {name: data.draw(st.lists(kinds.get(name, usual), min_size=height, max_size=height)) for name in names}
    rows = pl.DataFrame(
        {**drawn, "_bi_message": drawn["_bi_reason"]}, schema=dict.fromkeys([*names, "_bi_message"], pl.String)
    )
    options = IdentifiersSection(
        default_type=data.draw(st.sampled_from([*IDENTIFIER_TYPES, *([] if form == "values" else [None])])),
        default_source=data.draw(st.sampled_from([None, "INSTORE", "MOBILE_APP"])),
        country_code=data.draw(st.sampled_from([None, "91", "123"])),
        national_length=data.draw(st.sampled_from([10, 9, 13])),
        prefer=data.draw(st.sampled_from([list(IDENTIFIER_TYPES), ["email", "mobile"], ["external_id"]])),
    )
    known = st.sampled_from([None, ("INSTORE", "WEB_ENGAGE", "ALL"), ("INSTORE", "MOBILE_APP")])
    carried = {kind: data.draw(known) for kind in IDENTIFIER_TYPES if data.draw(st.booleans())}
    given_by_rules = identify(rows.lazy(), columns, form, options, carried).collect()
    assert_frame_equal(at_once(rows, columns, form, options, carried), given_by_rules)


@calm
@given(st.sampled_from(IDENTIFIER_TYPES), st.lists(cells, max_size=20))
def test_normalising_twice_changes_nothing(role, values):
    """An identifier that is read again stays as it is."""
    first = identified(role, values)["identifier"].drop_nulls().to_list()
    assert identified(role, first)["identifier"].to_list() == first


@calm
@given(
    st.integers(10**8, 10**15 - 1).map(str),
    st.lists(st.sampled_from(["", " ", "-", ".", "/", "(", ")", "\u00a0", "\u200b"]), min_size=16, max_size=16),
    st.sampled_from(["+", "00", " +", "+ ", "0 0", ""]),
)
def test_a_decorated_mobile_is_the_mobile_or_is_rejected(digits, separators, prefix):
    """Separators and a leading + or 00 never make another number of a mobile."""
    written = prefix + "".join(digit + separator for digit, separator in zip(digits, separators, strict=False))
    assume("(0)" not in re.sub(r"[\s\u200b]", "", written))  # which means: leave it out
    assert identified("mobile", [written])["identifier"][0] in {digits, None}


@calm
@given(st.integers(1, 2**63 - 1), st.integers(0, 5), st.sampled_from(["", ".0", ".00", ".0000"]))
def test_a_padded_id_is_the_id(number, zeros, tail):
    """Leading zeros and a float's tail make no other customer."""
    assert identified("id", ["0" * zeros + str(number) + tail])["identifier"].to_list() == [str(number)]


@calm
@given(st.lists(st.text("12", min_size=9, max_size=13), max_size=12))
def test_ambiguous_mobiles_are_found(numbers):
    """Exactly those numbers are marked that stand both with and without 1 to 3 digits before their last ten."""
    frame = identified("mobile", numbers)
    national = {number for number in numbers if len(number) == 10}
    ends = {number[-10:] for number in numbers if len(number) > 10}
    expected = [
        number in ends if len(number) == 10 else len(number) > 10 and number[-10:] in national for number in numbers
    ]
    assert ambiguous_mobiles(frame, IdentifiersSection()).to_list() == expected


@calm
@given(
    st.lists(st.lists(st.one_of(any_text, messy_numbers), min_size=3, max_size=3), max_size=12),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example([["a", "b\r", "c"]], ",", "utf-8", csv.QUOTE_MINIMAL)
@example([["a", "b", "\n"], ["", "", ""], [" ", '"', ""]], ",", "utf-8", csv.QUOTE_MINIMAL)
@example([["a", "b", "c"], ["d", "", "f "]], ",", "utf-8", csv.QUOTE_MINIMAL)
def test_what_csv_writes_is_read_verbatim(rows, delimiter, encoding, quoting):
    """Every cell that Python's csv module writes comes back as it was, an empty one as null, in its row and column."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows([["Mobile", "Name", "Store"], *rows])
    with TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "in.csv").write_bytes(text.getvalue().encode(encoding))
        named = InputSection(delimiter=delimiter, encoding="utf-16-le" if encoding == "utf-16-le" else None)
        take_in([base / "in.csv"], base=base, settings=named, target="t", out=base / "input.parquet")
        frame = pl.read_parquet(base / "input.parquet")
    expected = [tuple(cell or None for cell in row) for row in rows if any(row)]
    assert frame.select("Mobile", "Name", "Store").rows() == expected
    assert frame["_bi_row"].to_list() == list(range(1, len(expected) + 1))
    assert not frame["_bi_reason"].str.contains("ragged").any()


@calm
@given(st.lists(st.text("ab,;\t \r", max_size=8), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_lines_without_quotes_are_read_as_csv_reads_them(lines, ending):
    """Without quotes the quick way gives the rows that Python's csv module gives, those of a wrong width rejected."""
    content = ending.join(["Mobile,Name", *lines])
    expected = [row for row in csv.reader(io.StringIO(content, newline="")) if any(row)][1:]
    with TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "in.csv").write_bytes(content.encode())
        take_in(
            [base / "in.csv"], base=base, settings=InputSection(delimiter=","), target="t", out=base / "input.parquet"
        )
        frame = pl.read_parquet(base / "input.parquet")
    assert frame.select("Mobile", "Name").rows() == [
        tuple(cell or None for cell in (*row, "", "")[:2]) for row in expected
    ]
    assert frame["_bi_reason"].is_not_null().to_list() == [len(row) != 2 for row in expected]


@calm
@given(st.lists(st.text('ab,"" \t#\u00e9', max_size=9), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
@example(['"a","b"', "", '"",""', '"a""b",c', ","], "\r\n", True)
@example(['a"b,c'], "\n", True)
def test_whole_lines_are_read_as_csv_reads_them(lines, ending, last):
    """Where every line is proven to be one record, polars' reader gives what Python's csv module gives."""
    content = ending.join(["Mobile,Name", *lines]) + (ending if last else "")
    with TemporaryDirectory() as folder:
        text = Path(folder) / "in.csv"
        text.write_bytes(content.encode())
        rows = whole_lines(text, ["Mobile", "Name"], Layout(",", ["Mobile", "Name"], 1))
        if rows is None:
            return
        found = rows.collect().rows()
    read = list(csv.reader(io.StringIO(content, newline=""), strict=True))[1:]
    assert found == [tuple(cell or None for cell in row) for row in read if any(row)]
    assert all(len(row) == 2 for row in read if row)
