"""
The same as a dlt pipeline: a resource for each identifier type, and a custom destination that sends.

Usage: pipeline.py bulk|coupon INPUT.csv RESULTS.csv BASE_URL

Rows go through it as Arrow tables and Parquet. As dicts and JSON lines, the usual way, they cost twice as much.
"""

import csv
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ACTION, SOURCE, OUT, BASE_URL = sys.argv[1:]
SIZE = 1 if ACTION == "coupon" else 100
FOLDER = Path(OUT).with_suffix(".dlt").absolute()
os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "DLT_DATA_DIR": str(FOLDER),
    "LOAD__WORKERS": "16",
    "DATA_WRITER__FILE_MAX_ITEMS": "20000",  # a file is a job, and jobs are what runs side by side
}

import dlt  # noqa: E402 - it reads the settings when it is imported
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.csv  # noqa: E402
import requests  # noqa: E402

Row = dict[str, Any]
TOKEN = requests.post(
    f"{BASE_URL}/v3/oauth/token/generate", json={"key": "key", "secret": "secret"}, timeout=60
).json()["data"]["accessToken"]
local = threading.local()
writing = threading.Lock()


def post(path: str, body: Row) -> Row:
    """One request, over this thread's own session."""
    if not hasattr(local, "session"):
        local.session = requests.Session()
        local.session.headers["X-CAP-API-OAUTH-TOKEN"] = TOKEN
    answer = local.session.post(BASE_URL + path, json=body, timeout=60)
    answer.raise_for_status()
    found: Row = answer.json()
    return found


def send(kind: str, rows: list[Row]) -> list[Row]:
    """Send a batch; its rows with what became of them."""
    if ACTION == "coupon":
        answer = post("/v2/coupon/issue", {"seriesId": 544770, "customer": {kind: rows[0]["value"]}})
        return [{**rows[0], "reference": answer["code"], "error": ""}]
    body = {
        "type": "CUSTOMER",
        "bulkAction": "EARN",
        "promotionDetails": {"programId": 469, "promotionId": 69218},
        "identifierName": kind,
        "customers": [{"identifierValue": row["value"], "source": row["channel"]} for row in rows],
    }
    items = post("/v2/promotion/bulk/enrolAndEarn", body)["response"]
    return [
        {
            **row,
            "reference": item["result"]["earnedId"],
            "error": item["errors"][0]["message"] if item["errors"] else "",
        }
        for row, item in zip(rows, items, strict=True)
    ]


texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(["type", "value", "channel", "segment"], pa.string()))
rows_by_customer = pyarrow.csv.read_csv(SOURCE, convert_options=texts).group_by(["type", "value"], use_threads=False)
table = rows_by_customer.aggregate([("channel", "first"), ("segment", "first")])
table = table.rename_columns(["type", "value", "channel", "segment"])


def customers(kind: str) -> Any:
    """The rows of one identifier type."""

    @dlt.resource(name=kind, write_disposition="append")
    def rows() -> Iterator[Any]:
        for piece in table.filter(pc.equal(table["type"], kind)).to_batches(max_chunksize=20000):
            yield pa.Table.from_batches([piece])

    return rows()


with Path(OUT).open("w", newline="") as results:
    writer = csv.DictWriter(results, [*table.column_names, "reference", "error"])
    writer.writeheader()

    @dlt.destination(
        batch_size=SIZE,
        loader_file_format="parquet",
        name="loyalty",
        skip_dlt_columns_and_tables=True,
        max_table_nesting=0,
    )
    def issue(items: Any, description: Row) -> None:
        """Called with a batch of one table, and again until it does not raise: what was sent twice is issued twice."""
        rows = send(description["name"], items.to_pylist())
        with writing:
            writer.writerows(rows)

    pipeline = dlt.pipeline("campaign", destination=issue, pipelines_dir=str(FOLDER))
    pipeline.run([customers(kind) for kind in table["type"].unique().to_pylist()])
