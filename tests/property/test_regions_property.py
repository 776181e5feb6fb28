"""Mobiles by region: what is decided over whole columns is what libphonenumber says of each number."""

import phonenumbers
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkissue.input.identifiers import identified, identify
from bulkissue.input.regions import behind_plus, in_usual_shape, region_of, with_calling_code
from bulkissue.job.model import IdentifiersSection

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
KINDS = (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE)
FORMATS = (
    phonenumbers.PhoneNumberFormat.E164,
    phonenumbers.PhoneNumberFormat.INTERNATIONAL,
    phonenumbers.PhoneNumberFormat.NATIONAL,
)


def said_by_library(number: str, region: str) -> str | None:
    """The digits that are sent by the library alone; None where it finds no possible mobile. 00 is as good as +."""
    number = f"+{number[2:]}" if number.startswith("00") else number
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None
    digits = f"{parsed.country_code}{phonenumbers.national_significant_number(parsed)}"
    possible = phonenumbers.is_possible_number_for_type(parsed, phonenumbers.PhoneNumberType.MOBILE)
    return digits if possible and 9 <= len(digits) <= 15 else None


def written(region: str) -> list[str]:
    """A region's example numbers in all forms, with and without what is dialled before them."""
    found = []
    for kind in KINDS:
        number = phonenumbers.example_number_for_type(region, kind)
        if number is None:
            continue
        bare = phonenumbers.national_significant_number(number)
        found += [phonenumbers.format_number(number, form) for form in FORMATS]
        found += [
            bare,
            f"0{bare}",
            f"{number.country_code}{bare}",
            f"00{number.country_code}{bare}",
            bare[:-1],
            f"{bare}1",
        ]
    return found


def read(cells: list[str], region: str) -> list[str | None]:
    section = IdentifiersSection.model_validate({"default_source": "INSTORE", "mobile": {"region": region}})
    nothing = pl.lit(None, pl.String)
    rows = pl.DataFrame({"m": cells}).with_columns(nothing.alias("_bi_reason"), nothing.alias("_bi_message"))
    at_once = identified(rows, {"mobile": "m"}, "wide", section, {"mobile": None})
    by_rules = identify(rows.lazy(), {"mobile": "m"}, "wide", section, {"mobile": None}).collect()
    assert at_once.equals(by_rules)
    return at_once["identifier"].to_list()


@pytest.mark.parametrize("start", range(0, len(REGIONS), 40))
def test_examples_of_all_regions(start: int) -> None:
    """Every form of every region's examples gives what the library gives."""
    for region in REGIONS[start : start + 40]:
        cells = written(region)
        expected = [said_by_library(cell, region) for cell in cells]
        assert list(zip(cells, read(cells, region), strict=True)) == list(zip(cells, expected, strict=True)), region


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(REGIONS), st.lists(st.from_regex(r"\A[0-9]{4,16}\Z"), min_size=1, max_size=8))
def test_any_digits(region: str, numbers: list[str]) -> None:
    """The usual shapes never say what the library does not."""
    rules = region_of(region)
    series = pl.Series("n", numbers)
    usual = series.to_frame().with_columns(in_usual_shape(pl.col("n"), rules).alias("usual"))["usual"]
    for short, whole in zip(usual, with_calling_code(series, rules), strict=True):
        assert short is None or short == whole
    usual = series.to_frame().with_columns(behind_plus(pl.col("n"), rules).alias("usual"))["usual"]
    for short, whole in zip(usual, with_calling_code("+" + series, rules), strict=True):
        assert short is None or short == whole


def test_the_issue_s_own_examples() -> None:
    """British, Italian and Indian forms."""
    assert read(["07911 123456", "+44 (0)7911 123456", "7911123456", "+44 7911 123456"], "GB") == ["447911123456"] * 4
    assert read(["312 345 6789", "+39 312 345 6789", "06 1234 5678"], "IT") == [
        "393123456789",
        "393123456789",
        "390612345678",
    ]
    assert read(["098765 43210", "9876543210", "+919876543210", "919876543210"], "IN") == ["919876543210"] * 4
