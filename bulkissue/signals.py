"""
Signals that end a terminal session, taken in one place: a command that hears one stops in order.

It must never take a signal that whoever started the program has told it to ignore (nohup).
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: What asks the process to end; a closed terminal too, unless it was started to outlive it.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[: 2 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 3]


@contextmanager
def as_before() -> Iterator[None]:
    """Whoever takes the signals within the block, afterwards it is who took them before."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            _take(number, handler)


@contextmanager
def ignored() -> Iterator[None]:
    """
    Let no signal but SIGKILL end the process until the block ends.

    Ledgers that are being written are worth a moment's patience; SIGKILL does no harm either.
    """
    with as_before():
        for number in ENDING:
            _take(number, signal.SIG_IGN)
        yield


def call(callback: Callable[[], object]) -> None:
    """
    Have the running loop call this when a signal comes; for use within `as_before`.

    Not by the loop's own handlers: at its end it leaves SIGTERM to the kernel, before the ledgers are written.
    """
    loop = asyncio.get_running_loop()

    def interrupt(*_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: all that is left is to write the ledgers
            loop.call_soon_threadsafe(callback)

    for number in ENDING:
        _take(number, interrupt)


def _take(number: signal.Signals, handler: "signal._HANDLER") -> None:
    if threading.current_thread() is threading.main_thread():  # elsewhere its owner takes the signals
        signal.signal(number, handler)
