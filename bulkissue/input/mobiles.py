"""
Mobiles: digits with the country code, whichever way they were written, or the reason why not.

Pure and vectorised. It must never take a number that a program has rounded, cut or joined for a whole one.
"""

import polars as pl
from polars.expr.whenthen import ChainedThen

from bulkissue.input.column_mapping import INVISIBLE
from bulkissue.input.regions import (
    IMPOSSIBLE,
    UNREADABLE,
    Region,
    behind_plus,
    in_usual_shape,
    region_of,
    with_calling_code,
)
from bulkissue.job.model import IdentifiersSection

SCIENTIFIC = r"^[+-]?[0-9]+(?:[.,][0-9]+)?[eE][+-]?[0-9]+$"
_BLANKS = r"[\s\u{ad}\u{61c}\u{180e}\u{200b}-\u{200f}\u{202a}-\u{202e}\u{2060}-\u{206f}\u{feff}]+"
_BRACKETED_ZERO = r"^((?:\+|00)?[1-9][0-9]{0,2})\(0\)"
_NEVER = r"[^\s\S]()"
_THOUSANDS = r"^\+?[0-9]{1,3}(?:,[0-9]{3}){2,}(?:\.0+)?$"
_EXTENSION = r"(?i)[0-9][\s;,#-]*(?:x|ext\.?|extn\.?|extension|#)[\s.:=]*[0-9]{1,7}$"
_DATE = r"^[0-9]{4}-[01][0-9]-[0-3][0-9](?:[ T][0-9:.]+Z?)?$|^[0-3]?[0-9]/[0-3]?[0-9]/[0-9]{4}$"
_SEPARATORS = r"[().\-/\u{2010}-\u{2015}\u{2212}]+"
#: Full-width, Arabic, Persian and Devanagari digits are digits.
_DIGITS = {chr(zero + digit): str(digit) for zero in (0xFF10, 0x660, 0x6F0, 0x966) for digit in range(10)}


def mobiles(frame: pl.LazyFrame, settings: IdentifiersSection) -> pl.LazyFrame:
    """
    `mobile`: 9 to 15 digits with the country code, the first not 0. Adds `mobile_reason` and `mobile_warned` (Boolean).

    Blanks, brackets, dots, slashes and dashes go; a leading + or 00 says that the country code is there; else a
    number of `national_length` digits gets the job's, or the rules of the job's region say what it is.
    """
    country_code, national_length, region = settings.country_code, settings.national_length, settings.mobile.region
    text = pl.col("mobile")
    messy, dialled = pl.col("mobile_messy"), pl.col("mobile_dialled")
    frame = (
        frame.with_columns(
            mobile_messy=pl.when(~text.str.contains(r"^[1-9][0-9]*$")).then(
                text.str.replace(r"(?i)^tel:", "")
                .str.strip_chars_start("'" + INVISIBLE)
                .str.replace_many(list(_DIGITS), list(_DIGITS.values()))
            )
        )
        # 919986000586.0 is a float column's text. It is mended before dots go: 9199860005860 would be someone else.
        .with_columns(
            mobile_messy=pl.when(messy.str.contains(r"^\+?(?:[0-9]{9,}\.0+|[0-9]+\.00?)$"))
            .then(messy.str.replace(r"\.0+$", ""))
            .otherwise(messy)
        )
        # +44 (0)20 …: a bracketed 0 behind the country code is dialled only inside the country.
        .with_columns(
            mobile_dialled=messy.str.replace_all(_BLANKS, "")
            .str.replace(_BRACKETED_ZERO if region is None else _NEVER, "$1")
            .str.replace_all(_SEPARATORS, "")
        )
        .with_columns(
            mobile_international=(dialled.str.starts_with("+") | dialled.str.starts_with("00")).fill_null(value=False),
            mobile_digits=pl.when(dialled.str.starts_with("+"))
            .then(dialled.str.strip_prefix("+"))
            .otherwise(dialled.str.strip_prefix("00")),
        )
        .with_columns(mobile=pl.coalesce("mobile_digits", "mobile"))
    )
    if region is not None:
        return _by_region(frame, region_of(region), warn=settings.mobile.invalid == "warn")
    if country_code is not None:
        national = (
            ~pl.col("mobile_international") & (text.str.len_bytes() == national_length) & ~text.str.starts_with("0")
        )
        frame = frame.with_columns(mobile=pl.when(national).then(pl.lit(country_code) + text).otherwise(text))
    return frame.with_columns(
        mobile_warned=pl.lit(value=False),
        mobile_reason=_damaged()
        .when(text.str.starts_with("0"))
        .then(pl.lit("validate.mobile_leading_zero"))
        .when(~text.str.len_bytes().is_between(9, 15))
        .then(pl.lit("validate.mobile_length"))
        .when(~pl.col("mobile_international") & ~has_a_length(text, settings))
        .then(pl.lit("validate.mobile_length")),
    ).with_columns(mobile=pl.when(pl.col("mobile_reason").is_null()).then(text))


def _damaged() -> ChainedThen:
    """What the cell says of itself: that its number was rounded, is several, or is none."""
    messy = pl.col("mobile_messy")
    return (
        pl.when(messy.str.contains(SCIENTIFIC))
        .then(pl.lit("validate.mobile_scientific"))
        .when(messy.str.contains(_THOUSANDS))
        .then(pl.lit("validate.mobile_thousands"))
        .when(messy.str.contains(_EXTENSION))
        .then(pl.lit("validate.mobile_extension"))
        .when(messy.str.contains(_DATE))
        .then(pl.lit("validate.mobile_date"))
        # 9986000586/87 is two numbers, not one of twelve digits.
        .when(messy.str.contains(r"[0-9]{9,}[^0-9]+[0-9]"))
        .then(pl.lit("validate.mobile_several"))
        .when(pl.col("mobile_digits").str.contains(r"[^0-9]"))
        .then(pl.lit("validate.mobile_characters"))
    )


def _by_region(frame: pl.LazyFrame, region: Region, *, warn: bool) -> pl.LazyFrame:
    """The digits that a region's rules make of the numbers, or the reason why they make none."""
    digits, found, by_code = pl.col("mobile"), pl.col("mobile_found"), pl.col("mobile_international")
    plain = digits.str.contains(r"^[0-9]+$")
    abroad, here = (pl.when(plain & where).then(digits) for where in (by_code, ~by_code))
    usual = pl.coalesce(in_usual_shape(here, region), behind_plus(abroad, region))
    dialled = pl.when(by_code).then(pl.lit("+") + digits).otherwise(digits)
    impossible = found.str.starts_with(IMPOSSIBLE).fill_null(value=False)
    whole = pl.when(impossible).then(found.str.strip_prefix(f"{IMPOSSIBLE}:")).otherwise(found)
    reason = (
        _damaged()
        .when(found == UNREADABLE)
        .then(pl.lit("validate.mobile_region"))
        .when(impossible & pl.lit(not warn))
        .then(pl.lit("validate.mobile_impossible"))
        .when(~whole.str.len_bytes().is_between(9, 15))
        .then(pl.lit("validate.mobile_length"))
    )
    return (
        frame.with_columns(mobile_usual=usual)
        .with_columns(
            mobile_found=pl.when(plain & pl.col("mobile_usual").is_null())
            .then(dialled)
            .map_batches(lambda numbers: with_calling_code(numbers, region), return_dtype=pl.String)
        )
        .with_columns(mobile_found=pl.coalesce("mobile_usual", "mobile_found"))
        .with_columns(mobile_reason=reason, mobile_warned=impossible & pl.lit(warn))
        .with_columns(mobile=pl.when(pl.col("mobile_reason").is_null()).then(whole))
    )


def as_it_stands(cell: pl.Expr, settings: IdentifiersSection) -> tuple[str, pl.Expr, pl.Expr]:
    """
    Where `mobiles` takes a cell as it stands, but for the country code.

    Returns:
        A regular expression for the cell, the number that is sent, and whether that is one (Boolean).
    """
    if settings.mobile.region is not None:
        number = in_usual_shape(cell, region_of(settings.mobile.region))
        return r"^[0-9]{4,15}$", number, number.is_not_null() & number.str.len_bytes().is_between(9, 15)
    number = cell
    if settings.country_code is not None:
        national = cell.str.len_bytes() == settings.national_length
        number = pl.when(national).then(pl.lit(settings.country_code) + cell).otherwise(cell)
    return r"^[1-9][0-9]{8,14}$", number, has_a_length(number, settings)


def ambiguous_mobiles(frame: pl.DataFrame, settings: IdentifiersSection) -> pl.Series:
    """
    Where one number may stand both with and without its country code: `validate.mobile_ambiguous`.

    Only where no country code is configured. A mobile of `national_length` digits and one of 1 to 3 digits more
    that ends with it are both marked; they may be one customer or two, and only the job's owner knows.

    Args:
        frame: The whole input's `identifier_type`, `identifier` and `reason`, as `identify` gives them.
        settings: `[identifiers]`.

    Returns:
        Boolean, one for each row, never null.
    """
    nobody = pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)
    if settings.calling_code is not None:
        return nobody
    national = settings.national_length
    length = pl.col("identifier").str.len_bytes()
    numbers = frame.lazy().filter((pl.col("identifier_type") == "mobile") & pl.col("reason").is_null())
    is_national = (length == national).fill_null(value=False)
    is_international = length.is_between(national + 1, national + 3).fill_null(value=False)
    both = numbers.select(is_national.any(), other=is_international.any()).collect()
    if not all(both.row(0)):
        return nobody
    # At most 15 digits; and as a national number never begins with 0, its end as a number is its end as text.
    end = pl.col("identifier").cast(pl.Int64, strict=False).mod(10**national)
    ends = numbers.filter(is_national | is_international).select(end=end, international=is_international)
    shared = (
        ends.group_by("end")
        .agg(pl.col("international").any().alias("some"), pl.col("international").all().alias("all"))
        .filter(pl.col("some") & ~pl.col("all"))
        .collect()["end"]
    )
    if shared.is_empty():
        return nobody
    mark = (
        (pl.col("identifier_type") == "mobile")
        & pl.col("reason").is_null()
        & (is_national | is_international)
        & end.is_in(shared.implode())
    )
    return frame.select(mark.fill_null(value=False)).to_series()


def has_a_length(number: pl.Expr, settings: IdentifiersSection) -> pl.Expr:
    """Whether digits that nothing else says to be international are as many as a number of the country has."""
    length = number.str.len_bytes()
    possible = length.is_between(9, 15)
    if settings.country_code is None:
        return possible
    whole = len(settings.country_code) + settings.national_length
    return possible & (length == whole) & number.str.starts_with(settings.country_code)
