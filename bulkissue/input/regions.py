"""
National numbers of a region, by the rules of libphonenumber (`phonenumbers`, whose metadata they are taken from).

Usual shapes are decided over whole columns, by the region's own pattern; every other number by the library itself,
each different one once. The two must never disagree: where the pattern does not decide for certain, the library does.
"""

import functools
from dataclasses import dataclass

import polars as pl

#: What stands for a number that no mobile of its country has the length of, and for one that nobody can read.
IMPOSSIBLE = "impossible"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Region:
    """
    How numbers are written in a region.

    Attributes:
        name: ISO 3166, two letters.
        calling_code: Digits, without +.
        pattern: A regular expression of national numbers without their prefix.
        lengths: How many digits its mobiles have.
        prefix: What is dialled before a national number inside the country; empty where nothing is, None where it is
            no plain text.
        is_main: Whether it is the only country, or the main one, of its calling code.
        abroad: A regular expression of what is dialled before a calling code.
    """

    name: str
    calling_code: str
    pattern: str
    lengths: tuple[int, ...]
    prefix: str | None
    is_main: bool
    abroad: str


@functools.cache
def region_of(name: str) -> Region:
    """
    A region's rules.

    Raises:
        ValueError: There is no such region.
    """
    from phonenumbers import PhoneMetadata, region_code_for_country_code

    metadata = PhoneMetadata.metadata_for_region(name.upper())
    if metadata is None:
        raise ValueError("is no ISO country code that libphonenumber knows, such as GB or IN")
    # Of several countries with one calling code the main one says how long its numbers are.
    main_name = region_code_for_country_code(metadata.country_code or 0)
    main = PhoneMetadata.metadata_for_region(main_name) or metadata
    general, mobile = metadata.general_desc, main.mobile
    if general is None or general.national_number_pattern is None:
        raise ValueError("is a region of which libphonenumber knows no numbers")
    prefix = metadata.national_prefix_for_parsing or ""
    plain = prefix if not metadata.national_prefix_transform_rule and (prefix.isdigit() or not prefix) else None
    lengths = mobile.possible_length if mobile is not None else ()
    if not lengths or lengths == (-1,):
        lengths = main.general_desc.possible_length if main.general_desc else ()
    return Region(
        name=name.upper(),
        calling_code=str(metadata.country_code),
        pattern=general.national_number_pattern.replace(r"\d", "[0-9]"),
        lengths=tuple(lengths),
        prefix=plain,
        is_main=main_name == name.upper(),
        abroad=(metadata.international_prefix or "00").replace(r"\d", "[0-9]"),
    )


def in_usual_shape(number: pl.Expr, region: Region) -> pl.Expr:
    """
    A number's digits with the calling code, where they stand in one of the usual shapes; else null.

    That is: a national number alone, one behind what is dialled before it, or one behind the calling code; and nothing
    else that the digits could be.

    Args:
        number: Digits (String), of which it is not known whether the calling code is among them.
        region: Its rules.
    """
    if region.prefix is None:
        return pl.lit(None, pl.String)
    code, nothing = region.calling_code, pl.lit(None, pl.String)
    coded = number.str.starts_with(code)
    prefixed = number.str.starts_with(region.prefix) if region.prefix else pl.lit(value=False)
    # Only of these the pattern says what they are; for the others it is not asked.
    whole = _matches(pl.when(coded | prefixed).then(number), region)
    bare = pl.when(coded & ~whole).then(number.str.slice(len(code)))
    behind_code = _matches(bare, region) & _has_length(bare, region)
    alone = ~prefixed & (~coded | whole) & _has_length(number, region)
    alone &= ~pl.when(_has_length(number, region)).then(number).str.contains(f"^(?:{region.abroad})").fill_null(
        value=False
    )
    behind_prefix, national = pl.lit(value=False), nothing
    if region.prefix and region.prefix != code:
        behind_code &= ~bare.str.starts_with(region.prefix) & ~prefixed
        national = pl.when(prefixed & ~coded & ~whole).then(number.str.slice(len(region.prefix)))
        behind_prefix = _has_length(national, region) & _matches(national, region)
    return (
        pl.when(alone.fill_null(value=False))
        .then(pl.lit(code) + number)
        .when(behind_code.fill_null(value=False))
        .then(number)
        .when(behind_prefix.fill_null(value=False))
        .then(pl.lit(code) + national)
    )


def behind_plus(number: pl.Expr, region: Region) -> pl.Expr:
    """As `in_usual_shape`, of digits that begin with a calling code (String); null where it is another country's."""
    if region.prefix is None or not region.is_main:
        return pl.lit(None, pl.String)
    bare = pl.when(number.str.starts_with(region.calling_code)).then(number.str.slice(len(region.calling_code)))
    usual = _has_length(bare, region)
    if region.prefix:
        usual &= ~bare.str.starts_with(region.prefix)
    return pl.when(usual.fill_null(value=False)).then(number)


def _matches(number: pl.Expr, region: Region) -> pl.Expr:
    return number.str.contains(f"^(?:{region.pattern})$").fill_null(value=False)


def _has_length(number: pl.Expr, region: Region) -> pl.Expr:
    return number.str.len_bytes().is_in(region.lengths)


def with_calling_code(numbers: pl.Series, region: Region) -> pl.Series:
    """
    Numbers as digits with their calling code, by the library; `IMPOSSIBLE` and `UNREADABLE` where there is none.

    Args:
        numbers: Digits, with + in front where the calling code is known to be there (String).
        region: Where they were written.

    Returns:
        String, of the same length; null stays null. An impossible number follows its word, after a colon.
    """
    different = numbers.drop_nulls().unique()
    found = pl.DataFrame(
        {"number": different, "whole": [_by_library(one, region.name) for one in different]},
        schema={"number": pl.String, "whole": pl.String},
    )
    asked = numbers.alias("number").to_frame()
    return asked.join(found, on="number", how="left", maintain_order="left")["whole"]


def _by_library(number: str, region: str) -> str:
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return UNREADABLE
    digits = f"{parsed.country_code}{phonenumbers.national_significant_number(parsed)}"
    kind = phonenumbers.PhoneNumberType.MOBILE
    return digits if phonenumbers.is_possible_number_for_type(parsed, kind) else f"{IMPOSSIBLE}:{digits}"
