"""
What the benchmarks read: customers in CSV and Parquet, the same for the same numbers, and the request bodies wrk sends.

A script of its own, as it needs polars, and a process that forks others should be small: what it holds counts as
theirs. It must never draw anything from chance.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

CHUNK = 1_000_000
#: Rows in a thousand, of a file that is not clean.
REPEATED, CONFLICTING, UNUSABLE = 20, 1, 5


def customers(first: int, rows: int, *, clean: bool) -> pl.DataFrame:
    """
    Rows as a CRM exports them: `type` (mobile or email), `value`, `channel`, `segment`; all text.

    Every number gives one customer. Where they are not clean, some rows repeat an earlier customer, some of those
    with another channel, and some cannot be used.
    """
    number = pl.int_range(first, first + rows, dtype=pl.UInt64)
    # Three columns of dice, from the number alone.
    dice, back, kind = (number.hash(seed) for seed in (1, 2, 3))
    messy = pl.lit(not clean)
    conflicting = messy & (dice % 1000 < CONFLICTING)
    repeats = messy & (dice % 1000 < REPEATED)
    unusable = messy & (dice % 1000 >= 1000 - UNUSABLE)
    frame = pl.select(
        who=pl.when(repeats).then(number - back % pl.min_horizontal(number + 1, 500_000)).otherwise(number),
        conflicting=conflicting,
        unusable=unusable,
        segment=pl.lit("segment ") + (kind % 90 + 10).cast(pl.String),
    )
    who = pl.col("who")
    # 387420489 is 3 ** 18: it steps through all the numbers of nine digits without meeting one twice.
    digits = (who * 387_420_489 % 1_000_000_000).cast(pl.String).str.zfill(9)
    mobile = who.hash(4) % 10 < 7
    return frame.select(
        type=pl.when(mobile).then(pl.lit("mobile")).otherwise(pl.lit("email")),
        value=pl.when(mobile)
        .then(pl.lit("919") + digits)
        .otherwise(pl.lit("c") + digits + pl.lit("@example.com"))
        .str.slice(0, pl.when("unusable").then(8)),
        channel=pl.when("conflicting").then(pl.lit("WEBSITE")).otherwise(pl.lit("INSTORE")),
        segment="segment",
    )


def pieces(rows: int, *, clean: bool) -> Iterator[pl.DataFrame]:
    """All the rows, a million at a time."""
    for first in range(0, rows, CHUNK):
        yield customers(first, min(CHUNK, rows - first), clean=clean)


def write_csv(path: Path, rows: int, *, clean: bool) -> None:
    """The rows as CSV, quoted throughout, as most exports are."""
    with path.open("wb") as file:
        for place, piece in enumerate(pieces(rows, clean=clean)):
            piece.write_csv(file, include_header=not place, quote_style="always")


def write_wide(path: Path, rows: int) -> None:
    """Customers with three identifiers each, quoted throughout, as most exports are."""
    with path.open("wb") as file:
        for first in range(0, rows, CHUNK):
            number = pl.int_range(first, min(first + CHUNK, rows), dtype=pl.UInt64)
            digits = (number * 387_420_489 % 1_000_000_000).cast(pl.String).str.zfill(9)
            piece = pl.select(
                mobile=pl.lit("919") + digits,
                email=pl.lit("c") + digits + pl.lit("@example.com"),
                member=pl.lit("M") + digits,
                segment=pl.lit("segment ") + (number % 90 + 10).cast(pl.String),
            )
            piece.write_csv(file, include_header=not first, quote_style="always")


def write_bodies(path: Path, action: str, most: int = 1000) -> None:
    """Up to so many request bodies, a line each: of a hundred customers (bulk), of one (coupon)."""
    rows = customers(0, 200 * most, clean=True).filter(pl.col("type") == "mobile")
    values = rows["value"].to_list()
    if action == "coupon":
        bodies = [{"seriesId": 544770, "customer": {"mobile": value}} for value in values[:most]]
    else:
        bodies = [
            {
                "type": "CUSTOMER",
                "bulkAction": "EARN",
                "promotionDetails": {"programId": 469, "promotionId": 69218},
                "identifierName": "mobile",
                "customers": [{"identifierValue": value, "source": "INSTORE"} for value in values[at : at + 100]],
            }
            for at in range(0, 100 * most, 100)
        ]
    path.write_text("".join(json.dumps(body, separators=(",", ":")) + "\n" for body in bodies))


def main() -> None:
    """Make one file: `clean`, `messy` or `wide` of so many rows, `bodies` of an action, `parquet` of a CSV file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["clean", "messy", "wide", "bodies", "parquet"])
    parser.add_argument("of")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "bodies":
        write_bodies(arguments.out, arguments.of)
    elif arguments.what == "wide":
        write_wide(arguments.out, int(arguments.of))
    elif arguments.what == "parquet":
        pl.scan_csv(arguments.of, infer_schema=False).sink_parquet(arguments.out)
    else:
        write_csv(arguments.out, int(arguments.of), clean=arguments.what == "clean")


if __name__ == "__main__":
    main()
