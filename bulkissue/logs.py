"""
Logs: events on standard error, for people on a terminal and as JSON lines elsewhere.

It must never let an identifier, a secret, a body or a URL through: events name rows by number, and
httpx's own logger, which prints URLs with identifiers in them, stays at WARNING.
"""

import logging
import sys

import structlog


def configure(*, quiet: bool) -> None:
    """
    Set up logging for this process.

    Args:
        quiet: Only warnings and worse.
    """
    for name in ("httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal = sys.stderr.isatty()
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=True) if terminal else structlog.processors.JSONRenderer(sort_keys=True)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if quiet else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def bind(*, run_id: str, job: str) -> None:
    """Have every later line of this process say which run of which job it is of."""
    structlog.contextvars.bind_contextvars(run_id=run_id, job=job)


def get() -> structlog.typing.FilteringBoundLogger:
    """The program's logger. Events are nouns with a past-tense verb: `batch.answered`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
