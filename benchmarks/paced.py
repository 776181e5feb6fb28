"""
The pace of a run, as the server saw it: how much of its limit was used, how much was refused.

Reads times and statuses only, as `server.c` logs them.
"""

import os
import signal
import subprocess
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: How long a run is watched.
SECONDS = 310
_MINUTE = 60.0
#: A minute counts as settled from this share of the limit on.
_SETTLED = 0.9


@dataclass(frozen=True, slots=True)
class Use:
    """
    What became of a limit.

    Attributes:
        requests: In all.
        refused: Of them, answered 429.
        share: Of the limit, that was used after the first minute.
        settled: Seconds from the first request until a minute begins that uses nine tenths of the limit and sees no
            refusal.
    """

    requests: int
    refused: int
    share: float
    settled: float

    @property
    def refused_share(self) -> float:
        """Of all requests."""
        return self.refused / self.requests

    def said(self) -> str:
        """As people read it."""
        return (
            f"{self.requests:,} requests, {self.refused} refused, {self.share:.2%} of the limit used after the first "
            f"minute, settled after {self.settled:.0f} s"
        )


def use(log: Sequence[tuple[float, int]], limit: int) -> Use:
    """What became of a limit of so many requests a minute; the log is in the order of time."""
    began, ended = log[0][0], log[-1][0]
    taken = [at for at, status in log if status == 200]
    refused = [at for at, status in log if status == 429]
    later = [at for at in taken if at >= began + _MINUTE]
    share = len(later) / (limit * (ended - began - _MINUTE) / _MINUTE)
    settled = float("inf")
    for at in taken:
        if at + _MINUTE > ended:
            break
        used = bisect_left(taken, at + _MINUTE) - bisect_left(taken, at)
        lost = bisect_left(refused, at + _MINUTE) - bisect_left(refused, at)
        if used >= _SETTLED * limit and not lost:
            settled = at - began
            break
    return Use(len(log), len(refused), share, settled)


def start(command: Sequence[object], folder: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a run."""
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a run as Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    process.wait(60)
