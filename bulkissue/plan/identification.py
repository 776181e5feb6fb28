"""
Identification: every row with the identifier it would be sent by, those that stand beside it, or the reason why not.

It must never let what one file's columns mean be read into another file's rows.
"""

from pathlib import Path

import polars as pl

from bulkissue.errors import InputRefused
from bulkissue.input.identifiers import identified
from bulkissue.input.intake import Intake
from bulkissue.input.mobiles import ambiguous_mobiles
from bulkissue.job.model import Job
from bulkissue.outcomes import IDENTIFIER_TYPES, KNOWN_BY, REASONS, STRENGTH, Outcome
from bulkissue.plan.rows import OUTCOME, SLICE, settle
from bulkissue.service.routes import ROUTES, routes_of


def sent_by(input_path: Path, intake: Intake, job: Job) -> pl.DataFrame:
    """Every row with its identifier or the reason why it has none. Each file by its own columns."""
    carried = {kind: ROUTES[route].SOURCES for kind, route in routes_of(job).items()}
    parts, offset = [], 0
    for file in intake.files:
        if file.form == "values" and job.identifiers.default_type is None:
            raise InputRefused(
                f"{file.name} has identifiers without their type",
                hint="set [identifiers] default_type, or name the column under [input.columns], as in mobile = "
                f'"{next(iter(file.columns.values()), "…")}"',
            )
        preferred = job.identifiers.prefer
        if file.form == "wide" and not any(kind in file.columns for kind in preferred):
            raise InputRefused(
                f"{file.name} has no column for {' or '.join(preferred)}, and [identifiers] prefer names no other type",
                hint=f"add {' or '.join(kind for kind in IDENTIFIER_TYPES if kind in file.columns)} to prefer",
            )
        needed = [*dict.fromkeys(file.columns.values()), "_bi_reason", "_bi_message"]
        cells = pl.scan_parquet(input_path, glob=False).select(needed)
        for start in range(offset, offset + max(file.rows, 1), SLICE):
            part = cells.slice(start, min(SLICE, offset + file.rows - start)).collect()
            parts.append(identified(part, file.columns, file.form, job.identifiers, carried))
        offset += file.rows
    rows = pl.concat(parts)
    return rows.with_columns(
        pl.when(pl.col("reason").is_not_null()).then(pl.lit(Outcome.REJECTED.value, OUTCOME)).alias("outcome"),
    ).with_row_index("row")


def reject_ambiguous(rows: pl.DataFrame, job: Job) -> pl.DataFrame:
    """The rows, rejected where one number stands in the input with and without a country code, and which is unknown."""
    ambiguous = ambiguous_mobiles(rows, job.identifiers)
    reason = "validate.mobile_ambiguous"
    return settle(rows, ambiguous, Outcome.REJECTED, reason, pl.lit(REASONS[reason]))


def known_by(input_path: Path, intake: Intake, job: Job, rows: pl.DataFrame) -> pl.DataFrame | None:
    """
    The compare keys of every row's usable identifiers; None where no row can have more than one.

    Args:
        input_path: The run's `input.parquet`.
        intake: What was read into it.
        job: How identifiers are read.
        rows: Every row as `sent_by` gives it.

    Returns:
        A column for each of `STRENGTH` (String, null where the row has none), in the order of `rows`; and
        `_bi_email` and `_bi_external_id`, as they would be sent.
    """
    wide = [file for file in intake.files if file.form == "wide" and len(set(file.columns) & set(STRENGTH)) > 1]
    if not wide:
        return None
    parts, offset = [], 0
    cells = pl.scan_parquet(input_path, glob=False)
    for file in intake.files:
        kinds = [kind for kind in STRENGTH if kind in file.columns] if file in wide else []
        for start in range(offset, offset + file.rows, SLICE):
            size = min(SLICE, offset + file.rows - start)
            sent = rows.slice(start, size)
            usable = pl.col("outcome").is_null()
            part = sent.select(
                pl.when(usable, pl.col("identifier_type") == kind).then("compare_key").alias(kind) for kind in STRENGTH
            )
            nothing = pl.Series([None], dtype=pl.String).new_from_index(0, part.height)
            written = {f"_bi_{kind}": nothing for kind in ("email", "external_id")}
            for kind in kinds:
                needed = [file.columns[kind], "_bi_reason", "_bi_message"]
                alone = job.identifiers.model_copy(update={"prefer": [kind]})
                read = cells.select(needed).slice(start, size).collect()
                found = identified(read, {kind: file.columns[kind]}, "wide", alone, {kind: None})
                part = part.with_columns(pl.coalesce(kind, found["compare_key"]).alias(kind))
                if kind in {"email", "external_id"}:
                    written[f"_bi_{kind}"] = found["identifier"]
            parts.append(part.with_columns(**written))
        offset += file.rows
    return pl.concat(parts) if parts else None


def beside(rows: pl.DataFrame, known: pl.DataFrame | None) -> list[pl.Series]:
    """The columns of `KNOWN_BY`."""
    if known is None:
        nothing = pl.Series([None], dtype=pl.String).new_from_index(0, rows.height)
        return [nothing.alias(name) for name in KNOWN_BY.values()]
    kinds = rows["identifier_type"].drop_nulls().unique().to_list()
    if len(kinds) == 1:  # most files: nothing has to be chosen row by row
        nobody = pl.lit(None, pl.String)
        return known.select(
            (nobody if kind == kinds[0] else pl.col(kind)).alias(name) for kind, name in KNOWN_BY.items()
        ).get_columns()
    others = [
        pl.when(rows["identifier_type"].cast(pl.String).ne_missing(kind)).then(pl.col(kind)).alias(name)
        for kind, name in KNOWN_BY.items()
    ]
    return known.select(others).get_columns()
