"""Job files to test with: the smallest one, and its changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bulkissue.errors import JobRefused
from bulkissue.job import loading

SECRET = "hunter2-hunter2"
EARN = {
    "config_version": 1,
    "job": {"name": "diwali", "action": "earn"},
    "target": {"program_id": 469, "promotion_id": 69218},
    "api": {"base_url": "https://eu.api.example.com"},
}

#: What `writer` gives.
Write = Callable[..., Path]


def tree(**changes: object) -> dict[str, Any]:
    """EARN with changes by dotted key, written `api__limits__concurrency`; None takes the key out."""
    result: dict[str, Any] = json.loads(json.dumps(EARN))
    for key, value in changes.items():
        *tables, name = key.split("__")
        place = result
        for table in tables:
            place = place.setdefault(table, {})
        if value is None:
            del place[name]
        else:
            place[name] = value
    return result


def writer(folder: Path) -> Write:
    """Writes job files into a folder: of the content given, else EARN with changes."""

    def write(content: str | bytes | None = None, name: str = "job.toml", **changes: object) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            content = tomli_w.dumps(tree(**changes))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def problems_of(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(JobRefused) as refused:
        loading.load(path, environ=environ or {})
    assert SECRET not in str(refused.value)
    assert SECRET not in str(refused.value.hint)
    assert "pydantic" not in str(refused.value)
    return refused.value.problems
