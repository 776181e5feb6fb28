"""
Standard output and standard error whose reader may leave: `| head`, a log collector that dies, a full disk.

What nobody takes any more is dropped. A line that cannot be printed must never stop a run or change its exit code.
"""

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO


def open_standard_streams() -> None:
    """
    Make sure that the numbers 0, 1 and 2 are taken.

    A journal that got the number of a stream the program was started without would be written into by whoever says
    something to that stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


class Unfailing(io.TextIOBase):
    """
    A text stream that never raises when it is written.

    Args:
        stream: Where the text goes while somebody takes it; None where the program was started without such a stream.

    Attributes:
        lost: Why text was dropped, where that is not that its reader left.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.lost: OSError | None = None
        self._stream = stream or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write, or drop what cannot be written."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if somebody takes it."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:
            pass
        except OSError as trouble:
            self.lost = trouble
        except ValueError:  # the stream is closed
            pass

    def isatty(self) -> bool:
        """Whether a person reads it."""
        with suppress(ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor below."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # at run time it is a property there, too
        """What the text becomes."""
        return self._stream.encoding

    @property
    def buffer(self) -> object:
        """The bytes below."""
        return self._stream.buffer
