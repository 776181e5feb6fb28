"""A folder with a job, a service, and commands on them: what tests of whole runs play in."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from conftest import Ended
from judge import Judgement, hold_against_books, settled_runs
from zygote import Started, zygote

from bulkissue.commands.verify import verify
from bulkissue.sandbox import Running

KILLED = -9
#: What a job of conftest's `write_job` issues, if nothing else is said.
TARGET = {"effect": "earn", "promotion_id": 69218}
MOBILES = [(f"9199860{number:05}",) for number in range(500)]


class Scene:
    """
    Commands in one folder, against one service.

    Args:
        folder: Where the job is, as `job.toml`.
        service: Whose books are held against the ledgers.
    """

    def __init__(self, folder: Path, service: Running) -> None:
        self.folder = folder
        self.service = service
        self.runs_dir = folder / "runs"

    def start(self, *arguments: object, crash_at: str = "", **how: Any) -> Started:
        """Start a command; `how` as for `Zygote.start`."""
        environ = {**how.pop("environ", {}), **({"BULKISSUE_CRASH_AT": crash_at} if crash_at else {})}
        return zygote().start(*arguments, cwd=self.folder, environ=environ, **how)

    def do(self, *arguments: object, crash_at: str = "", **how: Any) -> Ended:
        """Execute a command to its end, which is a kill where `crash_at` says so, and only there."""
        ended = self.start(*arguments, crash_at=crash_at, **how).wait()
        assert (ended.code == KILLED) == bool(crash_at), (ended.code, crash_at, ended.err)
        return ended

    def run(self, crash_at: str = "", path: str = "input.csv", job: str = "job.toml") -> Ended:
        """Execute a job over a file."""
        return self.do("run", job, "--input", path, "--yes", "--json", crash_at=crash_at)

    def resume(self, run: object = "latest") -> Ended:
        """Take a run up again."""
        return self.do("resume", run, "--yes", "--json")

    def run_dir(self) -> Path:
        """The folder of the latest run."""
        return max(self.runs_dir.glob("*"))

    def judge(self, target: dict[str, Any] = TARGET) -> Judgement:
        """Hold every settled run against the books; each must be verified too."""
        runs = settled_runs(self.runs_dir)
        for folder in runs:
            assert not verify(folder)[1]
        return hold_against_books(runs, self.service.issued(), target)

    def writes(self) -> int:
        """Requests for an issue the service has got to the end of, whatever they ended with."""
        routes = self.service.stats()["requests"]
        return sum(sum(answers.values()) for route, answers in routes.items() if route != "token")


def journal_rows(folder: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """What SQLite itself finds in a run's journal; nothing where there is none."""
    if (folder / "journal.db").exists():
        with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as journal:
            yield from journal.execute(query).fetchall()


def without_answer(folder: Path) -> int:
    """Rows whose intent is in the journal and whose answer is not."""
    query = "SELECT rows FROM intent LEFT JOIN answer USING (attempt) WHERE answered_at IS NULL"
    return sum(len(json.loads(rows)) for (rows,) in journal_rows(folder, query))


def wait_until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for something to become true."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it does not come true"
        time.sleep(0.01)
