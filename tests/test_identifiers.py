"""What becomes of the cells that say who a customer is."""

import polars as pl
import pytest

from bulkissue.input.identifiers import IDENTIFIER_TYPE, identify
from bulkissue.input.mobiles import ambiguous_mobiles
from bulkissue.job.model import IdentifiersSection

BULK = ("INSTORE", "WEB_ENGAGE", "ALL")
SINGLE = ("INSTORE", "MOBILE_APP")
NO_SOURCE = dict.fromkeys(("id", "mobile", "email", "external_id"))


def rows(**columns):
    height = len(next(iter(columns.values())))
    frame = pl.LazyFrame(columns, schema=dict.fromkeys(columns, pl.String))
    absent = [name for name in ("_bi_reason", "_bi_message") if name not in columns]
    return frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent).head(height)


def wide(role, *cells, carried=NO_SOURCE, **settings):
    """Identifier or reason of each cell, in a file with one column."""
    frame = identify(rows(x=cells), {role: "x"}, "wide", IdentifiersSection(**settings), carried).collect()
    return [identifier or reason for identifier, reason in frame.select("identifier", "reason").rows()]


def one(role, cell, **settings):
    return wide(role, cell, **settings)[0]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("919986000586", "919986000586"),
        ("+91 99860 00586", "919986000586"),
        ("+91-99860-00586", "919986000586"),
        ("0091 99860/00586", "919986000586"),
        ("(+91) 99860.00586", "919986000586"),
        ("+44 (0)20 7946 0958", "442079460958"),
        ("91(0)9986000586", "919986000586"),
        ("+9198600(0)58", "9198600058"),
        ("(0)9986000586", "validate.mobile_leading_zero"),
        ("\u202a+91\u00a099860\u200900586\u202c", "919986000586"),
        ("+91\u201199860\u201300586", "919986000586"),
        ("'919986000586", "919986000586"),
        ("\ufeff919986000586 ", "919986000586"),
        ("919986000586.0", "919986000586"),
        ("919986000586.000", "919986000586"),
        ("+919986000586.0", "919986000586"),
        ("998.600.0000", "9986000000"),
        ("9.19987E+11", "validate.mobile_scientific"),
        ("9,19987E+11", "validate.mobile_scientific"),
        ("9.2e11", "validate.mobile_scientific"),
        ("919986000586.5", "validate.mobile_several"),
        ("9986000586/87", "validate.mobile_several"),
        ("9986000586 9986000587", "validate.mobile_several"),
        ("919986000586 87", "validate.mobile_several"),
        ("99860.00", "validate.mobile_length"),
        ("12345678", "validate.mobile_length"),
        ("1234567890123456", "validate.mobile_length"),
        ("-", "validate.identifier_missing"),
        ("09986000586", "validate.mobile_leading_zero"),
        ("000919986000586", "validate.mobile_leading_zero"),
        ("+0919986000586", "validate.mobile_leading_zero"),
        ("tel:+919986000586", "919986000586"),
        ("++919986000586", "validate.mobile_characters"),
        ("91+9986000586", "validate.mobile_characters"),
        ("919986000586x", "validate.mobile_characters"),
        ("٩١٩٩٨٦٠٠٠٥٨٦", "919986000586"),
        ("９１９９８６０００５８６", "919986000586"),
        ("not known", "validate.mobile_characters"),
        ("", "validate.identifier_missing"),
        (" \u00a0\u200b", "validate.identifier_missing"),
        (None, "validate.identifier_missing"),
    ],
)
def test_mobile(cell, expected):
    """A mobile is mended where its meaning is certain, and rejected with a reason elsewhere."""
    assert one("mobile", cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("9986000586", "919986000586"),
        ("99860 00586", "919986000586"),
        ("9986000586.0", "919986000586"),
        ("+9986000586", "9986000586"),
        ("009986000586", "9986000586"),
        ("919986000586", "919986000586"),
        ("99860005", "validate.mobile_length"),
        ("0986000586", "validate.mobile_leading_zero"),
    ],
)
def test_mobile_with_country_code(cell, expected):
    """The country code goes before a national number of exactly national_length digits, and before nothing else."""
    assert one("mobile", cell, country_code="91", national_length=10) == expected


def test_mobile_with_country_code_may_get_too_long():
    """A national number that has more than 15 digits with its country code is rejected."""
    assert one("mobile", "12345678901234", country_code="919", national_length=14) == "validate.mobile_length"


def test_short_national_numbers_get_their_code():
    """A national number of 8 digits is long enough once it has its country code."""
    assert one("mobile", "91234567", country_code="65", national_length=8) == "6591234567"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("555567088", "555567088"),
        (" 555567088\t", "555567088"),
        ("007", "7"),
        ("555567088.0", "555567088"),
        ("555567088.00", "555567088"),
        ("555567088.000", "555567088"),
        ("1.0000", "1"),
        ("'42", "42"),
        ("9223372036854775807", "9223372036854775807"),
        ("0009223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "validate.id_out_of_range"),
        ("10000000000000000000", "validate.id_out_of_range"),
        ("0", "validate.id_out_of_range"),
        ("0.0", "validate.id_out_of_range"),
        ("-5", "validate.id_out_of_range"),
        ("5.55E8", "validate.id_scientific"),
        ("5,55E+8", "validate.id_scientific"),
        ("5e8", "validate.id_scientific"),
        ("+5", "validate.id_not_integer"),
        ("5.5", "validate.id_not_integer"),
        ("555.000", "validate.id_not_integer"),
        ("555,567,088", "validate.id_not_integer"),
        ("555 567 088", "validate.id_not_integer"),
        ("٤٢", "validate.id_not_integer"),
        ("A42", "validate.id_not_integer"),
        ("1970-01-01", "validate.id_not_integer"),
    ],
)
def test_id(cell, expected):
    """A customer id is a positive int64 in canonical decimal."""
    assert one("id", cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("mira@example.com", "mira@example.com"),
        (" Mira.Sample+Diwali@Example.COM\u200b", "Mira.Sample+Diwali@Example.COM"),
        ("o'brien@mail.example.co.uk", "o'brien@mail.example.co.uk"),
        ("josé@exämple.com", "josé@exämple.com"),
        ("मीरा@उदाहरण.भारत", "मीरा@उदाहरण.भारत"),
        ("a" * 64 + "@example.com", "a" * 64 + "@example.com"),
        ("a" * 65 + "@example.com", "validate.email_syntax"),
        ("é" * 65 + "@example.com", "validate.email_syntax"),
        ("a@" + "b" * 64 + ".com", "validate.email_syntax"),
        (
            "a" * 60 + "@" + ".".join(["b" * 60] * 3) + ".example",
            "a" * 60 + "@" + ".".join(["b" * 60] * 3) + ".example",
        ),
        ("a" * 64 + "@" + ".".join(["b" * 60] * 3) + ".example", "validate.email_length"),
        ("mira", "validate.email_syntax"),
        ("mira@example", "validate.email_syntax"),
        ("mira@@example.com", "validate.email_syntax"),
        ("mira@a@example.com", "validate.email_syntax"),
        ("mira sample@example.com", "validate.email_syntax"),
        ("mira@exam ple.com", "validate.email_syntax"),
        ("mira@-example.com", "validate.email_syntax"),
        ("mira@example..com", "validate.email_syntax"),
        ("mira@127.0.0.1", "validate.email_syntax"),
        ("@example.com", "validate.email_syntax"),
        ("mira@", "validate.email_syntax"),
        ("Mira <mira@example.com>", "validate.email_display_name"),
        ("a@example.com;b@example.com", "validate.email_syntax"),
        ("mi\u200bra@example.com", "validate.email_syntax"),
        ("mi\x07ra@example.com", "validate.email_syntax"),
        ("mira@example.com\nx@example.com", "validate.email_syntax"),
    ],
)
def test_email(cell, expected):
    """An email is sent as written where it is sound, and rejected with a reason elsewhere."""
    assert one("email", cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("000003873472", "000003873472"),
        ("  AB-12 3 ", "AB-12 3"),
        ("7E10", "7E10"),
        ("1.5", "1.5"),
        ("'007", "007"),
        ('="007"', "007"),
        ("\u201cAB7\u201d", "AB7"),
        ("NULL", "validate.identifier_missing"),
        ("n/a", "validate.identifier_missing"),
        ("-", "validate.identifier_missing"),
        ("None 5", "None 5"),
        ("12345.0", "validate.external_id_decimal"),
        ("2026-11-01 00:00:00", "validate.external_id_date"),
        ("#REF!", "validate.external_id_error"),
        ("Total: 400", "validate.external_id_no_customer"),
        ("(400 rows affected)", "validate.external_id_no_customer"),
        ("Totalia", "Totalia"),
        ("AB\u200b7", "validate.external_id_characters"),
        ("AB\u00a07", "validate.external_id_characters"),
        ("é" * 50, "é" * 50),
        ("x" * 51, "validate.external_id_length"),
        ("AB\x01", "validate.external_id_characters"),
        ("AB\ncd", "validate.external_id_characters"),
        ("1.23E+10", "validate.external_id_scientific"),
        ("1,23E+10", "validate.external_id_scientific"),
        ("1.23e10", "validate.external_id_scientific"),
        ("1E+10", "validate.external_id_scientific"),
    ],
)
def test_external_id(cell, expected):
    """An external id is text of at most 50 characters that keeps its leading zeros."""
    assert one("external_id", cell) == expected


def test_the_frame_has_exactly_its_columns():
    """The columns and their types are those promised, whatever the form."""
    expected = {
        "identifier_type": IDENTIFIER_TYPE,
        **dict.fromkeys(
            ("identifier", "compare_key", "source", "account_id", "passed_over", "reason", "message"),
            pl.String(),
        ),
    }
    settings = IdentifiersSection(default_type="id")
    for form, columns in (
        ("wide", {"mobile": "a", "source": "b", "account_id": "c"}),
        ("long", {"identifier_type": "a", "identifier": "b"}),
        ("values", {"identifier": "a"}),
    ):
        frame = identify(rows(a=["1"], b=["2"], c=["3"]), columns, form, settings, NO_SOURCE)
        assert frame.collect_schema() == expected
        assert frame.collect().height == 1


def test_compare_key_of_an_email():
    """Emails are compared without regard to case, the other types as they are."""
    frame = identify(
        rows(e=["Mira@Example.com", "MÜLLER@example.com"]), {"email": "e"}, "wide", IdentifiersSection(), NO_SOURCE
    ).collect()
    assert frame["identifier"].to_list() == ["Mira@Example.com", "MÜLLER@example.com"]
    assert frame["compare_key"].to_list() == ["mira@example.com", "müller@example.com"]


def test_wide_takes_the_first_usable():
    """In a row with several identifiers the first one in `prefer` that is valid and can be carried is taken."""
    frame = identify(
        rows(
            i=["7", "x", "", "", None, "0"],
            m=["919986000586", "919986000586", "abc", "12", "", "5"],
            e=["a@example.com", "a@example.com", "a@example.com", "bad", " ", ""],
        ),
        {"id": "i", "mobile": "m", "email": "e"},
        "wide",
        IdentifiersSection(prefer=["email", "id", "mobile"]),
        {"id": None, "mobile": None},
    ).collect()
    assert frame.select("identifier_type", "identifier", "reason").rows() == [
        ("id", "7", None),
        ("mobile", "919986000586", None),
        ("email", None, "validate.route"),
        ("email", None, "validate.route"),
        (None, None, "validate.identifier_missing"),
        ("id", None, "validate.id_out_of_range"),
    ]
    assert frame["message"][2] == "this action carries id, mobile only"


def test_wide_leaves_out_what_is_not_preferred():
    """A column whose type is not in `prefer` says nothing."""
    frame = identify(
        rows(m=["919986000586"]), {"mobile": "m"}, "wide", IdentifiersSection(prefer=["id"]), NO_SOURCE
    ).collect()
    assert frame["reason"].to_list() == ["validate.identifier_missing"]


def test_long_reads_its_types():
    """A type cell is read by its usual names, without regard to case, blanks and underscores."""
    types = [
        "ID",
        " Customer_Id ",
        "mobile",
        "Phone No.",
        "E-Mail",
        "externalId",
        "EXTERNAL ID",
        "",
        "card",
        None,
        "card",
    ]
    values = ["7", "8", "919986000586", "919986000587", "a@example.com", "01", "02", "9", "10", "", ""]
    settings = IdentifiersSection()
    columns = {"identifier_type": "t", "identifier": "v"}
    frame = identify(rows(t=types, v=values), columns, "long", settings, NO_SOURCE).collect()
    assert [kind or reason for kind, reason in frame.select("identifier_type", "reason").rows()] == [
        *("id", "id", "mobile", "mobile", "email", "external_id", "external_id"),
        *("validate.identifier_type_missing", "validate.identifier_type_unknown"),
        *("validate.identifier_missing", "validate.identifier_missing"),
    ]
    assert frame["identifier"].to_list()[:7] == values[:7]


def test_long_falls_back_on_the_default_type():
    """An empty type cell is the default type, an unknown one is not."""
    frame = identify(
        rows(t=["", "card"], v=["7", "7"]),
        {"identifier_type": "t", "identifier": "v"},
        "long",
        IdentifiersSection(default_type="id"),
        NO_SOURCE,
    ).collect()
    assert frame["identifier"].to_list() == ["7", None]


def test_values_are_of_the_default_type():
    """Where a file has only values, all are of the default type."""
    settings = IdentifiersSection(default_type="external_id")
    frame = identify(rows(v=["007", ""]), {"identifier": "v"}, "values", settings, NO_SOURCE).collect()
    assert frame.select("identifier_type", "identifier", "reason").rows() == [
        ("external_id", "007", None),
        (None, None, "validate.identifier_missing"),
    ]


def test_sources_are_held_against_their_route():
    """A source is trimmed, put in capitals, defaulted, and must be one that the row's own route knows."""
    frame = identify(
        rows(
            t=["id", "id", "id", "id", "external_id", "external_id", "mobile"],
            v=["1", "2", "3", "4", "5", "6", "919986000586"],
            s=[" instore ", "web-engage", "", "MOBILE_APP", "mobile app", "ALL", "nonsense"],
        ),
        {"identifier_type": "t", "identifier": "v", "source": "s"},
        "long",
        IdentifiersSection(default_source="ALL"),
        {"id": BULK, "external_id": SINGLE, "mobile": None},
    ).collect()
    assert frame.select("source", "reason").rows() == [
        ("INSTORE", None),
        ("WEB_ENGAGE", None),
        ("ALL", None),
        ("", "validate.source_unknown"),
        ("MOBILE_APP", None),
        ("", "validate.source_unknown"),
        ("", None),
    ]
    assert frame["message"][3] == "the source is none of INSTORE, WEB_ENGAGE, ALL"
    assert frame["identifier"].null_count() == 2


def test_a_source_that_is_nowhere():
    """Without a source column and a default, a route that needs a source rejects the row."""
    assert one("id", "7", carried={"id": BULK}) == "validate.source_missing"
    assert one("id", "7", carried={"id": BULK}, default_source="MOBILE_APP") == "validate.source_unknown"
    assert one("id", "7", carried={"id": None}) == "7"


def test_account_ids_are_trimmed():
    """An account id is the cell without the white space around it, or empty."""
    frame = identify(
        rows(i=["1", "2"], a=[" A-1 ", None]), {"id": "i", "account_id": "a"}, "wide", IdentifiersSection(), NO_SOURCE
    ).collect()
    assert frame["account_id"].to_list() == ["A-1", ""]


def test_intakes_rejection_stays():
    """A row that intake rejected keeps intake's reason and message, and gets no identifier."""
    frame = identify(
        rows(i=["1", "2"], _bi_reason=["validate.ragged_line", None], _bi_message=["line 2 has 1 field", None]),
        {"id": "i"},
        "wide",
        IdentifiersSection(default_source="INSTORE"),
        {"id": BULK},
    ).collect()
    assert frame.row(0) == (None, None, None, "", "", None, "validate.ragged_line", "line 2 has 1 field")
    assert frame.row(1) == ("id", "2", "2", "INSTORE", "", None, None, None)


def test_messages_never_show_the_identifier():
    """What is said of a rejected row does not repeat its cell."""
    frame = identify(
        rows(m=["55512X", "1234", "0998600058612"]), {"mobile": "m"}, "wide", IdentifiersSection(), NO_SOURCE
    ).collect()
    for cell, message in zip(["55512X", "1234", "0998600058612"], frame["message"], strict=True):
        assert message
        assert cell not in message


def numbers(*mobiles):
    return identify(rows(m=mobiles), {"mobile": "m"}, "wide", IdentifiersSection(), NO_SOURCE).collect()


def test_ambiguous_mobiles():
    """A national number and an international one that ends with it are both marked, and nothing else is."""
    frame = numbers("9986000586", "919986000586", "9986000587", "919986000588", "x", "99998600058600")
    marks = ambiguous_mobiles(frame, IdentifiersSection()).to_list()
    assert marks == [True, True, False, False, False, False]


def test_no_mobile_is_ambiguous_with_a_country_code():
    """With a country code configured, every national number has it."""
    frame = numbers("9986000586", "919986000586")
    assert not ambiguous_mobiles(frame, IdentifiersSection(country_code="91")).any()


def test_no_mobile_is_ambiguous_alone():
    """Numbers of one length are not ambiguous, and neither are other types, rejected rows or no rows at all."""
    assert not ambiguous_mobiles(numbers("9986000586", "9986000586"), IdentifiersSection()).any()
    frame = numbers("9986000586", "919986000586")
    others = frame.with_columns(identifier_type=pl.lit("id").cast(IDENTIFIER_TYPE))
    assert not ambiguous_mobiles(others, IdentifiersSection()).any()
    rejected = frame.with_columns(reason=pl.lit("validate.source_missing"))
    assert not ambiguous_mobiles(rejected, IdentifiersSection()).any()
    assert ambiguous_mobiles(frame.clear(), IdentifiersSection()).to_list() == []


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("9986000586", "919986000586"),
        ("919986000586", "919986000586"),
        ("+447911123456", "447911123456"),
        ("00447911123456", "447911123456"),
        ("447911123456", "validate.mobile_length"),
        ("998600058", "validate.mobile_length"),
        ("99860005861", "validate.mobile_length"),
        ("91998600058", "validate.mobile_length"),
        ("99860 005861", "validate.mobile_length"),
        ("91 99860 00586", "919986000586"),
    ],
)
def test_a_mobile_has_as_many_digits_as_its_country_has(cell, expected):
    """With a country code, digits that nothing says to be international are a whole number of that country."""
    assert one("mobile", cell, country_code="91") == expected


def test_an_external_id_by_pattern():
    """With a pattern, an external id matches it as a whole or is rejected, on the short way and on the long."""
    settings = {"external_id": {"pattern": "M[0-9]{4}|é+"}}
    assert one("external_id", "M1234", **settings) == "M1234"
    assert one("external_id", "éé", **settings) == "éé"
    assert one("external_id", "M12345", **settings) == "validate.external_id_pattern"
    assert one("external_id", "XM1234", **settings) == "validate.external_id_pattern"


def test_one_name_in_two_spellings():
    """Two Unicode spellings of one external id are one customer; each is sent as it stands."""
    frame = rows(x=["Zo\u00e9", "Zoe\u0301"])
    found = identify(frame, {"external_id": "x"}, "wide", IdentifiersSection(), NO_SOURCE).collect()
    assert found["compare_key"].n_unique() == 1
    assert found["identifier"].to_list() == ["Zo\u00e9", "Zoe\u0301"]


def test_the_header_again():
    """A cell that is its column's own name is no customer."""
    frame = rows(Loyalty=["Loyalty", "Loyalty7"])
    found = identify(frame, {"external_id": "Loyalty"}, "wide", IdentifiersSection(), NO_SOURCE).collect()
    assert found["reason"].to_list() == ["validate.external_id_no_customer", None]


@pytest.mark.parametrize("cell", ["'a@x.org", '"a@x.org"', '="a@x.org"', "\u201ca@x.org\u201d", "a@x.org"])
def test_quotes_around_an_email(cell):
    """Quotation marks around an email, and a spreadsheet's mark before it, are not sent with it."""
    assert one("email", cell) == "a@x.org"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("919,986,000,586", "validate.mobile_thousands"),
        ("2026-11-27", "validate.mobile_date"),
        ("27/11/2026 00:00", "validate.mobile_characters"),
        ("27/11/2026", "validate.mobile_date"),
        ("+919986000586 ext. 12", "validate.mobile_extension"),
        ("919986000586x12", "validate.mobile_extension"),
        ("9.19986E+11", "validate.mobile_scientific"),
    ],
)
def test_reasons_name_the_cause(cell, reason):
    """What a program made of a number is said, with and without a region."""
    for settings in (IdentifiersSection(), IdentifiersSection.model_validate({"mobile": {"region": "IN"}})):
        frame = identify(rows(m=[cell]), {"mobile": "m"}, "wide", settings, NO_SOURCE).collect()
        assert frame["reason"].to_list() == [reason]


def test_numbers_that_no_mobile_has():
    """They are rejected, or taken and said where the job wants that."""
    cells = ["98765", "+9198765432101", "9876543210", "12"]
    taken = {"reject": [None, None, "919876543210", None], "warn": [None, "9198765432101", "919876543210", None]}
    for invalid, sent in taken.items():
        settings = IdentifiersSection.model_validate({"mobile": {"region": "IN", "invalid": invalid}})
        frame = identify(rows(m=cells), {"mobile": "m"}, "wide", settings, NO_SOURCE).collect()
        assert frame["identifier"].to_list() == sent
        over = "mobile:validate.mobile_impossible" if invalid == "warn" else None
        assert frame["passed_over"].to_list() == [None, over, None, None]
