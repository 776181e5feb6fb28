"""
Processes and what they cost: the one way everything here is measured, and the service it is measured against.

It must stay small, and import nothing but the standard library: a new process begins with the memory of the
one that started it, and Linux counts that into the new one's peak.
"""

import json
import os
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1024


class Failed(Exception):
    """A measured command did not do what it was to do; the table says so and the benchmark goes on."""


@dataclass(frozen=True, slots=True)
class Cost:
    """
    What a process cost, its children included.

    Attributes:
        processor: Seconds of processor, user and system.
        wall: Seconds.
        peak: Largest resident memory, MiB.
        server: Seconds of processor of the server meanwhile.
    """

    processor: float
    wall: float
    peak: float
    server: float = 0.0


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(
        statistics.median(cost.processor for cost in costs),
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.peak for cost in costs),
        statistics.median(cost.server for cost in costs),
    )


class Server:
    """
    A service of our own, `server.c`.

    Args:
        program: Where it is, compiled.
        limit: Requests in any minute, beyond which it answers 429; 0 for no limit.
    """

    def __init__(self, program: Path, limit: int = 0) -> None:
        self._program, self._limit = program, limit

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen([self._program, str(self._limit)], stdout=subprocess.PIPE, text=True)
        port = int(self._process.stdout.readline()) if self._process.stdout else 0
        self.base_url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, trouble: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()

    def processor(self) -> float:
        """Seconds of processor it has used so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS

    def stats(self) -> dict[str, int]:
        """`requests` answered and `customers` given something, so far."""
        counted: dict[str, int] = json.loads(self._get("/stats"))
        return counted

    def log(self) -> list[tuple[float, int]]:
        """Of a server with a limit: each request's time, in seconds, and its status."""
        lines = (line.split() for line in self._get("/log").splitlines())
        return [(float(at), int(status)) for at, status in lines]

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.base_url + path, timeout=60) as answer:
            text: str = answer.read().decode()
        return text


def run(
    command: Sequence[object],
    folder: Path,
    *,
    server: Server | None = None,
    environ: dict[str, str] | None = None,
    codes: Sequence[int] = (0,),
) -> tuple[Cost, str]:
    """
    Execute a command to its end.

    Args:
        command: Program and arguments.
        folder: Its working directory; what it says goes into `out` and `err` there.
        server: Whose share is to be measured too.
        environ: Variables on top of ours.
        codes: Exit codes that are as it should be.

    Returns:
        Its cost, and its standard output.

    Raises:
        Failed: Another exit code.
    """
    before = server.processor() if server else 0.0
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        last = (folder / "err").read_text(errors="replace").strip().splitlines()[-2:]
        raise Failed(f"exit code {process.returncode}: {' '.join(last)[-300:]}")
    after = server.processor() if server else 0.0
    cost = Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / _MIB, after - before)
    return cost, (folder / "out").read_text()


def count_lines(path: Path) -> int:
    """Lines of a file that was just written; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def machine() -> dict[str, Any]:
    """What this was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": os.uname().release,
        "load_before": round(os.getloadavg()[0], 2),
    }
