"""What tests of the whole program share: a stand-in service, a job file, the command line, and the books."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w
from intaking import OWN, TARGET, Taken

from bulkissue.errors import ExitCode, InputRefused
from bulkissue.input.intake import take_in
from bulkissue.job.model import ColumnsSection, InputSection
from bulkissue.outcomes import LEDGER_OF, RESULT_FIELDS, Ledger, Outcome, Results, RowResult
from bulkissue.sandbox import Options, Running, start_thread

ENVIRON = {"BULKISSUE_CLIENT_KEY": "key", "BULKISSUE_CLIENT_SECRET": "secret"}
TARGETS = {
    "enrol": {"program_id": 469, "promotion_id": 69218},
    "earn": {"program_id": 469, "promotion_id": 69218},
    "issue": {"program_id": 469, "promotion_id": 69218},
    "cart": {"promotion_id": "67dd4210ef21a64211227e04"},
    "coupon": {"series_id": 544770},
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def run_dir(self) -> Path:
        return Path(self.json["run_dir"])

    @property
    def counts(self) -> dict[str, int]:
        counted: dict[str, int] = self.json["counts"]
        return {name: count for name, count in counted.items() if count}


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Starts stand-in services that end with the test."""
    started: list[Any] = []

    def start(**options: Any) -> Running:
        context = start_thread(Options(**{"magic": False, **options}))
        started.append(context)
        return context.__enter__()

    yield start
    for context in reversed(started):
        context.__exit__(None, None, None)


@pytest.fixture
def service(serve: Callable[..., Running]) -> Running:
    """A stand-in service that does nothing wrong."""
    return serve()


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Writes a job file below the test's folder; tables are given as keyword arguments."""

    def write(base_url: str, action: str = "earn", name: str = "job.toml", **tables: dict[str, Any]) -> Path:
        document: dict[str, Any] = {
            "config_version": 1,
            "job": {"name": "test", "action": action},
            "target": TARGETS[action],
            "input": {"paths": ["input.csv"]},
            "identifiers": {"default_source": "INSTORE"},
            "api": {"base_url": base_url, "limits": {"requests_per_minute": 600_000, "concurrency": 4}},
        }
        for table, values in tables.items():
            if table == "limits":
                document["api"]["limits"] |= values
            elif table == "target":
                document["target"] = values
            else:
                document[table] = document.get(table, {}) | values
        path = tmp_path / name
        path.write_bytes(tomli_w.dumps(document).encode())
        return path

    return write


@pytest.fixture
def write_input(tmp_path: Path) -> Callable[..., Path]:
    """Writes a CSV file of rows below the test's folder."""

    def write(header: Sequence[str], rows: Sequence[Sequence[str]], name: str = "input.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Ended]:
    """Executes the real command in a process of its own."""

    def execute(*arguments: object, environ: dict[str, str | None] | None = None, cwd: Path | None = None) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "bulkissue", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd or tmp_path,
            env={name: text for name, text in {**os.environ, **ENVIRON, **(environ or {})}.items() if text is not None},
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return execute


def each_row(results: Results | None, rows: int) -> list[RowResult]:
    """The results of so many rows, one by one."""
    assert results is not None
    columns = [getattr(results, name) for name in RESULT_FIELDS]
    spread = [column if isinstance(column, list) else [column] * rows for column in columns]
    return [RowResult(Outcome(outcome), *rest) for outcome, *rest in zip(*spread, strict=True)]


def read_ledger(run_dir: Path, ledger: Ledger | str) -> list[dict[str, str]]:
    with (run_dir / f"{ledger}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_ledgers(run_dir: Path) -> dict[tuple[str, int], dict[str, str]]:
    """Every row of a run by file and number; fails where one stands twice or in the wrong ledger."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for ledger in Ledger:
        for row in read_ledger(run_dir, ledger):
            assert LEDGER_OF[Outcome(row["_bi_outcome"])] is ledger
            key = (row["_bi_source_file"], int(row["_bi_row"]))
            assert key not in found
            found[key] = row
    return found


def hold_against_books(run_dir: Path, issued: Sequence[dict[str, Any]], *, effect: str) -> None:
    """
    Prove a run's ledgers by the service's own books: nothing twice, and every outcome true.

    Succeeded rows have exactly the effect their reference names; failed, rejected and not attempted ones none.
    """
    effects: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in issued:
        if one["effect"] == effect:
            effects.setdefault((one["identifier_type"], one["identifier"].casefold()), []).append(one)
    assert all(len(several) == 1 for several in effects.values()), "issued twice"
    for key, row in read_ledgers(run_dir).items():
        outcome = row["_bi_outcome"]
        mine = effects.get((row["_bi_identifier_type"], row["_bi_identifier"].casefold()), [])
        if outcome == Outcome.SUCCEEDED:
            assert [one["reference"] for one in mine] == [row["_bi_reference"]], key
        elif outcome in {Outcome.FAILED, Outcome.REJECTED, Outcome.NOT_ATTEMPTED}:
            assert not mine, key


@pytest.fixture
def take(tmp_path):
    """Writes files (name: bytes or text) and takes them in."""

    def take_files(files, *, columns=None, target=TARGET, **settings):
        if not isinstance(files, dict):
            files = {"in.csv": files}
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        before = sorted(path.name for path in tmp_path.iterdir())
        out = tmp_path / "input.parquet"
        try:
            said = take_in(
                [tmp_path / name for name in files],
                base=tmp_path,
                settings=InputSection(columns=ColumnsSection(**(columns or {})), **settings),
                target=target,
                out=out,
            )
        finally:
            left = {path.name for path in tmp_path.iterdir()} - set(before) - {out.name}
            assert not left, "temporary files stay behind"
        frame = pl.read_parquet(out)
        assert frame.schema == dict.fromkeys(said.columns, pl.String()) | OWN
        assert frame.height == said.rows == sum(file.rows for file in said.files)
        return Taken(said, frame)

    return take_files


@pytest.fixture
def refused(take):
    """Takes files in, expects a refusal, and gives its message and hint."""

    def refuse(files, **settings):
        with pytest.raises(InputRefused) as caught:
            take(files, **settings)
        assert caught.value.exit_code == ExitCode.INPUT
        return f"{caught.value.message} | {caught.value.hint}"

    return refuse
