"""
Identifiers: what the rows' cells say of each customer, as the service wants it, or the reason why not.

Pure and vectorised: every rule is a polars expression over whole columns. It must never mend a value by a
guess: a wrong customer's money cannot be taken back, a rejected row can be mended and sent.
"""

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from bulkissue.input.column_mapping import INVISIBLE, SPELLINGS
from bulkissue.input.mobiles import SCIENTIFIC, as_it_stands, mobiles
from bulkissue.job.model import IdentifiersSection
from bulkissue.outcomes import IDENTIFIER_TYPES, REASONS

_NOTHING = pl.lit(None, pl.String)

#: The dtype of `identifier_type`.
IDENTIFIER_TYPE = pl.Enum(IDENTIFIER_TYPES)

_LARGEST_ID = "9223372036854775807"
_WHOLE = r"^(?:([0-9]{4,})\.0+|([0-9]{1,3})\.(?:00?|0000+))$"  # 555.000 may mean 555000
_WORD = r"\p{L}\p{M}\p{N}"
_ASCII_EMAIL = (
    r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]$"
)
_ANY_EMAIL = (
    r'^[^\s@\p{C}()<>\[\]:;,\\"]+@'
    rf"(?:[{_WORD}](?:[{_WORD}-]*[{_WORD}])?\.)+\p{{L}}[{_WORD}-]*[{_WORD}]$"
)

#: What the rules of each type leave as it is.
_AS_IT_STANDS = {
    "id": r"^[1-9][0-9]{0,17}$",
    "email": r"^[A-Za-z0-9]" + _ASCII_EMAIL.removeprefix("^").replace("{1,64}", "{0,63}", 1),
    # With a digit in it: NULL, none and Total are looked at.
    "external_id": r"^[A-Za-z_-]*[0-9][0-9A-Za-z_-]*$",
}
#: What programs write where there is nothing.
_WORDS_FOR_NOTHING = ("null", "n/a", "#n/a", "nan", "none", "-", "\\n")  # \\N is MySQL's
#: ="0791…" and '0791… make a spreadsheet leave a text alone; a text may stand in quotation marks of any kind.
_WRAPPED = r"^=?[\"\u{201c}\u{201d}\u{201e}\u{ab}\u{bb}](.*)[\"\u{201c}\u{201d}\u{ab}\u{bb}]$"
_MARKS_IN_FRONT = "'\u2018\u2019"
_TOTAL = r"(?i)^\(?(?:(?:grand|sub)[ -]?)?totals?\b|^\(?[0-9]+ (?:rows?|records?)\b|^(?:sum|count)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}.*)?$|^[0-9]{2}:[0-9]{2}:[0-9]{2}$"


def identified(
    rows: pl.DataFrame,
    columns: Mapping[str, str],
    form: str,
    settings: IdentifiersSection,
    carried: Mapping[str, tuple[str, ...] | None],
) -> pl.DataFrame:
    """As `identify`; rows that are in order as they stand, which most are, take a short way to the same result."""
    in_order, taken = _as_it_stands(columns, form, settings, carried)
    # Lazily, as only then what both want is reckoned once.
    straight = rows.lazy().select(in_order.fill_null(value=False).alias("_bi_in_order"), *taken).collect()
    short = straight.drop_in_place("_bi_in_order")
    if rows.height and short.all():
        return straight
    placed = rows.with_row_index("_bi_place")
    rest = placed.filter(~short)
    mended = identify(rest.lazy(), columns, form, settings, carried).collect()
    straight = straight.with_row_index("_bi_place").filter(short)
    return pl.concat([straight, mended.insert_column(0, rest["_bi_place"])]).sort("_bi_place").drop("_bi_place")


def identify(
    rows: pl.LazyFrame,
    columns: Mapping[str, str],
    form: str,
    settings: IdentifiersSection,
    carried: Mapping[str, tuple[str, ...] | None],
) -> pl.LazyFrame:
    """
    Say for every row who the customer is, or why that cannot be said.

    Args:
        rows: A file's rows as text, and `_bi_reason` and `_bi_message` (intake's own rejection, else null).
        columns: Our role to their header, as `headers.find_roles` gives them.
        form: `long`, `wide` or `values`.
        settings: `[identifiers]`.
        carried: The identifier types this action can carry, each with the sources its route knows, or None where
            the route sends no source.

    Returns:
        One row for each, in the same order: `identifier_type` (`IDENTIFIER_TYPE`; null where none can be said),
        `identifier` (String, normalised; null where rejected), `compare_key` (String; an email in lower case, which
        is nearly but not wholly Unicode's case folding), `source` (String, in capitals, else empty), `account_id`
        (String, else empty), `passed_over` (String, `TYPE:REASON` of a preferred identifier that is there and cannot
        be used, where there is another one; else null), `reason` and `message` (String; both null where there is an
        identifier).
    """
    frame = _cells(rows, columns)
    types = [t for t in settings.prefer if t in columns] if form == "wide" else list(IDENTIFIER_TYPES)
    frame = _typed_cells(frame, settings) if form != "wide" else frame.with_columns(type_reason=_NOTHING)
    for identifier_type in types:
        if identifier_type not in carried:
            frame = frame.with_columns(
                pl.when(pl.col(identifier_type).is_not_null())
                .then(pl.lit("validate.route"))
                .alias(f"{identifier_type}_reason"),
                pl.lit(None, pl.String).alias(identifier_type),
                mobile_warned=pl.lit(value=False),
            )
        elif identifier_type == "mobile":
            frame = mobiles(frame, settings)
        elif identifier_type == "external_id":
            header = columns.get("external_id", columns.get("identifier", ""))
            frame = _external_ids(frame, settings.external_id.pattern, header)
        else:
            frame = {"id": _ids, "email": _emails}[identifier_type](frame)
    frame = _first_usable(frame, types, fall_back=settings.fall_back)
    frame = _sources(frame, settings.default_source, carried)
    return _verdicts(frame, carried)


def _as_it_stands(
    columns: Mapping[str, str],
    form: str,
    settings: IdentifiersSection,
    carried: Mapping[str, tuple[str, ...] | None],
) -> tuple[pl.Expr, list[pl.Expr]]:
    """Where `identify` takes the cells as they stand, but for case and country code; and what it gives there."""
    if form == "long":
        given = pl.col(columns["identifier_type"])
        kind = given.cast(IDENTIFIER_TYPE, strict=False)
        chosen = {name: given == name for name in IDENTIFIER_TYPES if name in carried}
        cell = pl.col(columns["identifier"])
    else:
        wide = form == "wide"
        preferred = (name for name in settings.prefer if name in columns)
        only: str = next(preferred, "") if wide else settings.default_type or ""
        kind = pl.lit(only or None, IDENTIFIER_TYPE)
        chosen = {only: pl.lit(value=True)} if only in carried else {}
        cell = pl.col(columns[only if wide else "identifier"]) if chosen else _NOTHING
    value, patterns, mobile_fits = cell, dict(_AS_IT_STANDS), pl.lit(value=False)
    if "mobile" in chosen:
        patterns["mobile"], number, mobile_fits = as_it_stands(cell, settings)
        value = pl.when(chosen["mobile"]).then(number).otherwise(cell)
    key = value
    if "email" in chosen:
        key = pl.when(chosen["email"]).then(cell.str.to_lowercase()).otherwise(value)
    longest = {
        "email": cell.str.len_bytes() <= 254,
        "mobile": mobile_fits,
        "external_id": (cell.str.len_bytes() <= 50) & _fits(cell, settings.external_id.pattern),
    }
    in_order, source = pl.lit(value=False), _NOTHING
    for known in dict.fromkeys(carried.values()):
        within = [name for name in chosen if carried[name] == known]
        said = pl.lit("") if known is None else _known_source(columns, settings.default_source, known)
        for name in within:
            clean = pl.when(chosen[name]).then(cell).str.contains(patterns[name])
            in_order |= clean & longest.get(name, True) & said.is_not_null()
        if within:
            here = pl.any_horizontal(chosen[name] for name in within)
            source = said if len(within) == len(chosen) else pl.when(here).then(said).otherwise(source)
    account = pl.col(columns["account_id"]).str.strip_chars(INVISIBLE) if "account_id" in columns else pl.lit("")
    return pl.col("_bi_reason").is_null() & in_order, [
        kind.alias("identifier_type"),
        value.alias("identifier"),
        key.alias("compare_key"),
        source.alias("source"),
        account.fill_null("").alias("account_id"),
        _NOTHING.alias("passed_over"),
        _NOTHING.alias("reason"),
        _NOTHING.alias("message"),
    ]


def _known_source(columns: Mapping[str, str], default: str | None, known: tuple[str, ...]) -> pl.Expr:
    """A row's source where it is written as the route knows it, or is left to such a default; else null."""
    otherwise = pl.lit(default if default in known else None, pl.String)
    if "source" not in columns:
        return otherwise
    cell = pl.col(columns["source"])
    return pl.when(cell.is_in(known)).then(cell).when(cell.is_null()).then(otherwise)


def _fits(text: pl.Expr, pattern: str | None) -> pl.Expr:
    return pl.lit(value=True) if pattern is None else text.str.contains(f"^(?:{pattern})$")


def _unwrapped(cell: pl.Expr) -> pl.Expr:
    """A cell without a spreadsheet's or a writer's marks around it; words for nothing are empty."""
    bare = cell.str.replace(_WRAPPED, "$1").str.strip_chars_start(_MARKS_IN_FRONT).str.strip_chars(INVISIBLE)
    marked = cell.str.contains("^[=\"'\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb]")
    text = pl.when(marked).then(bare).otherwise(cell)
    short = text.str.len_bytes() <= max(map(len, _WORDS_FOR_NOTHING))
    return pl.when(short & text.str.to_lowercase().is_in(_WORDS_FOR_NOTHING)).then(pl.lit("")).otherwise(text)


def _cells(rows: pl.LazyFrame, columns: Mapping[str, str]) -> pl.LazyFrame:
    """The cells that matter, by role, without what is invisible around them; empty ones null. And intake's verdict."""
    trimmed = {role: pl.col(header).str.strip_chars(INVISIBLE) for role, header in columns.items()}
    trimmed |= {role: _unwrapped(cell) for role, cell in trimmed.items() if role in (*IDENTIFIER_TYPES, "identifier")}
    absent = {role: _NOTHING for role in SPELLINGS if role not in columns}
    return rows.select(
        pl.col("_bi_reason").alias("given_reason"),
        pl.col("_bi_message").alias("given_message"),
        *[pl.when(cell != "").then(cell).alias(role) for role, cell in trimmed.items()],
        *[nothing.alias(role) for role, nothing in absent.items()],
    )


def _typed_cells(frame: pl.LazyFrame, settings: IdentifiersSection) -> pl.LazyFrame:
    """
    Long and value-only form as wide: the value goes to its type's column.

    Adds `type_reason`. A type is read without regard to case, blanks and underscores, by the usual names of
    columns; an empty one is `default_type`.
    """
    value = pl.col("identifier")
    plain = pl.col("identifier_type").str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", "")
    known = pl.coalesce(pl.when(pl.col("plain").is_in(SPELLINGS[role])).then(pl.lit(role)) for role in IDENTIFIER_TYPES)
    default = pl.lit(settings.default_type, pl.String)
    frame = frame.with_columns(plain=plain)
    frame = frame.with_columns(said=pl.when(pl.col("identifier_type").is_null()).then(default).otherwise(known))
    return frame.with_columns(
        *[pl.when(pl.col("said") == role).then(value).alias(role) for role in IDENTIFIER_TYPES],
        type_reason=pl.when(value.is_not_null() & pl.col("said").is_null()).then(
            pl.when(pl.col("identifier_type").is_null())
            .then(pl.lit("validate.identifier_type_missing"))
            .otherwise(pl.lit("validate.identifier_type_unknown"))
        ),
    )


def _ids(frame: pl.LazyFrame) -> pl.LazyFrame:
    """
    `id`: a positive int64 in canonical decimal. Adds `id_reason`.

    007 is 7, so that one customer cannot stand twice. 555567088.0 is a float column's text of a whole number. 5.55E8
    has lost digits.
    """
    text = pl.col("id")
    return (
        frame.with_columns(
            id_messy=pl.when(~text.str.contains(r"^[1-9][0-9]{0,17}$")).then(text.str.strip_chars_start("'"))
        )
        .with_columns(id_whole=pl.col("id_messy").str.replace(_WHOLE, "$1$2"))
        .with_columns(
            id_digits=pl.when(pl.col("id_whole").str.contains(r"^[0-9]+$")).then(
                pl.col("id_whole").str.strip_chars_start("0")
            )
        )
        .with_columns(
            id_reason=pl.when(pl.col("id_messy").str.contains(SCIENTIFIC))
            .then(pl.lit("validate.id_scientific"))
            .when(pl.col("id_whole").str.contains(r"^-[0-9]+$"))
            .then(pl.lit("validate.id_out_of_range"))
            .when(pl.col("id_messy").is_not_null() & pl.col("id_digits").is_null())
            .then(pl.lit("validate.id_not_integer"))
            .when(~_within_int64(pl.col("id_digits")))
            .then(pl.lit("validate.id_out_of_range"))
        )
        .with_columns(id=pl.when(pl.col("id_reason").is_null()).then(pl.coalesce("id_digits", "id")))
    )


def _within_int64(digits: pl.Expr) -> pl.Expr:
    """Whether digits without leading zeros are an int64 above 0: by width, then as text, never as a float."""
    width = digits.str.len_bytes()
    widest = len(_LARGEST_ID)
    return (digits != "") & ((width < widest) | ((width == widest) & (digits <= _LARGEST_ID)))


def _emails(frame: pl.LazyFrame) -> pl.LazyFrame:
    """
    `email`: one @, at most 64 characters before it, a domain with a dot behind it, at most 254 in all.

    Adds `email_reason`. Sent as written. Whether the address exists is the service's to say.
    """
    text = pl.col("email")
    messy = pl.when(~text.str.contains(_ASCII_EMAIL)).then(text)
    return frame.with_columns(
        email_reason=pl.when(text.str.len_chars() > 254)
        .then(pl.lit("validate.email_length"))
        .when(messy.str.contains(r"^[^<>]*<[^<>@]+@[^<>@]+>$"))
        .then(pl.lit("validate.email_display_name"))
        .when(
            ~messy.str.contains(_ANY_EMAIL)
            | messy.str.contains(r"^[^@]{65}")  # local part
            | messy.str.contains(r"@.*[^.]{64}")  # a label of the domain
        )
        .then(pl.lit("validate.email_syntax"))
    ).with_columns(email=pl.when(pl.col("email_reason").is_null()).then(text))


def _external_ids(frame: pl.LazyFrame, pattern: str | None, header: str) -> pl.LazyFrame:
    """
    `external_id`: at most 50 characters, kept with its leading zeros. Adds `external_id_reason`.

    7E10 is a legal one, 1.2E+10 is a spreadsheet's damage; so are 12345.0, a date, and #REF!. A total below the table
    and the column's own name are no customers.
    """
    text = pl.col("external_id")
    messy = pl.when(~text.str.contains(_AS_IT_STANDS["external_id"])).then(text)
    return frame.with_columns(
        external_id_reason=pl.when(text.str.len_chars() > 50)
        .then(pl.lit("validate.external_id_length"))
        .when(messy.str.contains(r"\p{Cc}|\p{Cf}|[\s--\x20]"))
        .then(pl.lit("validate.external_id_characters"))
        .when(messy.str.contains(r"^[+-]?[0-9]+(?:[.,][0-9]+[eE][+-]?|[eE]\+)[0-9]+$"))
        .then(pl.lit("validate.external_id_scientific"))
        .when(messy.str.contains(r"^[0-9]+\.0+$"))
        .then(pl.lit("validate.external_id_decimal"))
        .when(text.str.contains(_DATE))
        .then(pl.lit("validate.external_id_date"))
        .when(messy.str.contains(r"^#[A-Z/0!?]+[!?]$"))
        .then(pl.lit("validate.external_id_error"))
        .when(messy.str.contains(_TOTAL) | (text == header))
        .then(pl.lit("validate.external_id_no_customer"))
        .when(~_fits(text, pattern))
        .then(pl.lit("validate.external_id_pattern"))
    ).with_columns(external_id=pl.when(pl.col("external_id_reason").is_null()).then(text))


def _first_usable(frame: pl.LazyFrame, types: Sequence[str], *, fall_back: bool) -> pl.LazyFrame:
    """
    Take the first type that has a value; without `fall_back` only where no type before it has an unusable one.

    Adds `chosen` (the type), `value`, `key`, `passed_over` and `reason`. Where none has a value, type and reason are
    those of the first cell that is not empty.
    """
    reasons = [f"{t}_reason" for t in types]
    # A type that the route cannot carry is not passed over: nothing is wrong with the cell.
    damaged = {t: pl.col(f"{t}_reason") != "validate.route" for t in types}
    if not fall_back:
        spoilt = pl.lit(value=False)
        kept = []
        for t in types:
            kept.append(pl.when(~spoilt).then(pl.col(t)).alias(t))
            spoilt |= damaged[t].fill_null(value=False)
        frame = frame.with_columns(kept)
    # One name may be written in two ways that look alike: with é as one character or as two.
    composed = pl.col("external_id").str.normalize("NFC")
    keys = {"email": pl.col("email").str.to_lowercase(), "external_id": composed}
    over, before = [], pl.lit(value=True)
    for t in types:
        over.append(pl.when(before & damaged[t]).then(pl.format(t + ":{}", f"{t}_reason")))
        before &= pl.col(t).is_null()
    warned = _NOTHING
    if "mobile" in types:
        # Taken all the same, as the job wants it, and said.
        taken = pl.all_horizontal(pl.lit(value=True), *[pl.col(t).is_null() for t in types[: types.index("mobile")]])
        warned = pl.when(taken & pl.col("mobile_warned")).then(pl.lit("mobile:validate.mobile_impossible"))
    return frame.with_columns(
        chosen=pl.coalesce(
            *[pl.when(pl.col(t).is_not_null()).then(pl.lit(t)) for t in types],
            *[pl.when(pl.col(f"{t}_reason").is_not_null()).then(pl.lit(t)) for t in types],
            _NOTHING,
        ),
        value=pl.coalesce(*types, _NOTHING),
        passed_over=pl.coalesce(*over, warned, _NOTHING),
        key=pl.coalesce(*[keys.get(t, pl.col(t)) for t in types], _NOTHING),
        reason=pl.when(pl.all_horizontal(pl.lit(value=True), *[pl.col(t).is_null() for t in types])).then(
            pl.coalesce("type_reason", *reasons, pl.lit("validate.identifier_missing"))
        ),
    )


def _sources(
    frame: pl.LazyFrame, default_source: str | None, carried: Mapping[str, tuple[str, ...] | None]
) -> pl.LazyFrame:
    """
    The row's own source, else the default, in capitals, held against what its type's route knows.

    Replaces `source` (empty where the route sends none) and adds `source_reason` and `source_message`.
    """
    named = pl.col("source").fill_null(pl.lit(default_source, pl.String))
    frame = frame.with_columns(source=named.str.to_uppercase().str.replace_all(r"[\s-]+", "_"))
    source = pl.col("source")
    sends, reason, message = pl.lit(value=False), _NOTHING, _NOTHING
    for known in dict.fromkeys(sources for sources in carried.values() if sources is not None):
        within = pl.any_horizontal([pl.col("chosen") == t for t, sources in carried.items() if sources == known])
        foreign = within & ~source.is_in(known)
        sends |= within
        reason = (
            pl.when(within & source.is_null())
            .then(pl.lit("validate.source_missing"))
            .when(foreign)
            .then(pl.lit("validate.source_unknown"))
            .otherwise(reason)
        )
        message = pl.when(foreign).then(pl.lit(f"the source is none of {', '.join(known)}")).otherwise(message)
    return frame.with_columns(
        source=pl.when(sends).then(source).fill_null(""), source_reason=reason, source_message=message
    )


def _verdicts(frame: pl.LazyFrame, carried: Collection[str]) -> pl.LazyFrame:
    """One verdict for each row: intake's rejection before the identifier's before the source's."""
    frame = frame.with_columns(verdict=pl.coalesce("given_reason", "reason", "source_reason"))
    verdict = pl.col("verdict")
    accepted = verdict.is_null()
    messages = {reason: text for reason, text in REASONS.items() if reason.startswith("validate.")}
    messages["validate.route"] = f"this action carries {', '.join(carried)} only"
    return frame.select(
        pl.when(pl.col("given_reason").is_null()).then(pl.col("chosen")).cast(IDENTIFIER_TYPE).alias("identifier_type"),
        pl.when(accepted).then(pl.col("value")).alias("identifier"),
        pl.when(accepted).then(pl.col("key")).alias("compare_key"),
        pl.when(accepted).then(pl.col("source")).otherwise(pl.lit("")).alias("source"),
        pl.col("account_id").fill_null("").alias("account_id"),
        pl.when(accepted).then(pl.col("passed_over")).alias("passed_over"),
        verdict.alias("reason"),
        pl.coalesce(
            "given_message",
            pl.when(pl.col("reason").is_null()).then("source_message"),
            # Reason for text. replace_strict would do, but takes all rows into memory at once.
            verdict.str.replace_many(list(messages), list(messages.values()), leftmost=True),
        ).alias("message"),
    )
