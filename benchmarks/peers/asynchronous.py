"""
The same, by somebody who knows asyncio: one httpx client, thirty-two requests in flight, json and csv.

Usage: asynchronous.py bulk|coupon INPUT.csv RESULTS.csv BASE_URL
"""

import asyncio
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

IN_FLIGHT = 32
ACTION, SOURCE, OUT, BASE_URL = sys.argv[1:]
SIZE = 1 if ACTION == "coupon" else 100
Row = dict[str, str]


def batches(rows: Iterator[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Batches of one identifier type each, without repeated customers."""
    seen: set[tuple[str, str]] = set()
    gathered: dict[str, list[Row]] = {}
    for row in rows:
        if (key := (row["type"], row["value"])) in seen:
            continue
        seen.add(key)
        batch = gathered.setdefault(row["type"], [])
        batch.append(row)
        if len(batch) == SIZE:
            yield row["type"], gathered.pop(row["type"])
    yield from gathered.items()


async def send(client: httpx.AsyncClient, kind: str, rows: list[Row]) -> list[Row]:
    """Send a batch; its rows with what became of them."""
    try:
        if ACTION == "coupon":
            body: dict[str, Any] = {"seriesId": 544770, "customer": {kind: rows[0]["value"]}}
            answer = (await client.post("/v2/coupon/issue", json=body)).raise_for_status().json()
            return [{**rows[0], "reference": answer["code"], "error": ""}]
        body = {
            "type": "CUSTOMER",
            "bulkAction": "EARN",
            "promotionDetails": {"programId": 469, "promotionId": 69218},
            "identifierName": kind,
            "customers": [{"identifierValue": row["value"], "source": row["channel"]} for row in rows],
        }
        answer = (await client.post("/v2/promotion/bulk/enrolAndEarn", json=body)).raise_for_status().json()
    except (httpx.HTTPError, KeyError) as trouble:
        return [{**row, "reference": "", "error": type(trouble).__name__} for row in rows]
    return [
        {
            **row,
            "reference": item["result"]["earnedId"],
            "error": item["errors"][0]["message"] if item["errors"] else "",
        }
        for row, item in zip(rows, answer["response"], strict=True)
    ]


async def main() -> None:
    """All of it."""
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    with Path(SOURCE).open(newline="") as source, Path(OUT).open("w", newline="") as out:  # noqa: ASYNC230 - a script
        reader = csv.DictReader(source)
        writer = csv.DictWriter(out, [*(reader.fieldnames or ()), "reference", "error"])
        writer.writeheader()
        waiting = batches(reader)
        async with httpx.AsyncClient(base_url=BASE_URL, limits=limits, timeout=60) as client:
            token = await client.post("/v3/oauth/token/generate", json={"key": "key", "secret": "secret"})
            client.headers["X-CAP-API-OAUTH-TOKEN"] = token.json()["data"]["accessToken"]

            async def work() -> None:
                for kind, rows in waiting:
                    writer.writerows(await send(client, kind, rows))

            await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


asyncio.run(main())
