"""
Logs: events on standard error, for people on a terminal and as JSON lines elsewhere; and all of a run's in its folder.

It must never let an identifier, a secret, a body or a URL through: events name rows by number, and
httpx's own logger, which prints URLs with identifiers in them, stays at WARNING.
"""

import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TextIO, cast

import structlog

#: The file in a run folder that holds all events of the run, as JSON lines.
RUN_LOG = "run.log"
_EVERY_SECONDS = 60.0
_KNOWN = frozenset({"event", "level", "timestamp", "run_id", "job", "request_id"})


class _RunLog:
    """Where the events of the run of this process are kept besides; nowhere until a run has a folder."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def open(self, folder: Path) -> None:
        """Keep the events of a run in its folder from now on."""
        handle = os.open(folder / RUN_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(handle, "a", encoding="utf-8")

    def close(self) -> None:
        """Keep nothing any more."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # a full disk: the ledgers say so, and are what counts
                return

    def keep(
        self, _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """A processor: write the event down, and pass it on."""
        if self._file is not None:
            try:
                self._file.write(json.dumps(event, sort_keys=True, default=str) + "\n")
                self._file.flush()
            except OSError:  # as above; standard error has it still
                self.close()
        return event


def _for_people(_: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict) -> str:
    """A processor: one line with the clock, the event and what it says; of which run it is, the person knows."""
    told = {key: value for key, value in event.items() if key not in _KNOWN and value not in ("", None, [], False)}
    details = " ".join(f"{key}={_plain(value)}" for key, value in told.items())
    moment = datetime.fromisoformat(str(event["timestamp"])).astimezone()
    return f"{moment:%H:%M:%S} {event['level']}: {event['event']} {details}".rstrip()


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class _StandardError(io.TextIOBase):
    """Standard error as it is at that moment: a live area on it takes its place while it is there."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


_run_log = _RunLog()


def configure(*, quiet: bool) -> None:
    """
    Set up logging for this process.

    Args:
        quiet: Of what goes to standard error only warnings and worse.
    """
    for name in ("httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal = sys.stderr.isatty()
    renderer: structlog.types.Processor = _for_people if terminal else structlog.processors.JSONRenderer(sort_keys=True)

    def loud_enough(
        _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if quiet and event.get("level") in {"debug", "info"}:
            raise structlog.DropEvent
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _run_log.keep,
            loud_enough,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _StandardError())),
        cache_logger_on_first_use=False,
    )


def bind(*, run_id: str, job: str) -> None:
    """Have every later line of this process say which run of which job it is of."""
    structlog.contextvars.bind_contextvars(run_id=run_id, job=job)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """
    Have every line of the block in the run's folder too, as JSON lines, whatever goes to standard error.

    Raises:
        OSError: The folder takes no file.
    """
    _run_log.open(folder)
    try:
        yield
    finally:
        _run_log.close()


def get() -> structlog.typing.FilteringBoundLogger:
    """The program's logger. Events are nouns with a past-tense verb: `batch.answered`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


class Sparing:
    """
    Warnings that may come by the thousand: of each kind one a minute, which says how many there were since the last.

    Args:
        event: Their name.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._said: dict[str, float] = {}
        self._kept: dict[str, int] = {}
        self._log = get()

    def warning(self, kind: str, **details: object) -> None:
        """Say it, or count it where one of its kind was said less than a minute ago."""
        now = time.monotonic()
        if now - self._said.get(kind, -_EVERY_SECONDS) < _EVERY_SECONDS:
            self._kept[kind] = self._kept.get(kind, 0) + 1
            return
        self._said[kind] = now
        more = self._kept.pop(kind, 0)
        self._log.warning(self._event, **details, **({"more_since": more} if more else {}))

    def flush(self) -> None:
        """Say how many were not said."""
        for kind, more in self._kept.items():
            self._log.warning(self._event, kind=kind, more_since=more)
        self._kept.clear()
