"""
Standard output and standard error whose reader may leave: `| head`, a log collector that dies, a full disk.

What nobody takes any more is dropped. A line that cannot be printed must never stop a run or change its exit code.
"""

import io
from contextlib import suppress
from typing import TextIO


class Unfailing(io.TextIOBase):
    """
    A text stream that never raises when it is written.

    Args:
        stream: Where the text goes while somebody takes it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop what cannot be written."""
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if somebody takes it."""
        with suppress(OSError, ValueError):
            self._stream.flush()

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
