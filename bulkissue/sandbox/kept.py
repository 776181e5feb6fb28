"""
The stand-in's books in a file: a line of JSON for each effect, so that the next stand-in goes on where one ended.

It must never hold an answer back or let one go before the line of what it did is with the kernel.
"""

import fcntl
import os
import time
from pathlib import Path

import msgspec

from bulkissue.errors import SettingsRefused
from bulkissue.sandbox.books import Effect

_PATIENCE_SECONDS = 10.0
_BEGINNING = b'{"seq":'


class Kept:
    """
    The file of one stand-in at a time.

    Raises:
        SettingsRefused: It cannot be read or written, holds something else, or another stand-in keeps its books there.
    """

    def __init__(self, path: Path) -> None:
        try:
            # For its owner alone, whatever the umask: a rehearsal has the customers of the real input.
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b")
        except OSError as trouble:
            raise SettingsRefused(f"the stand-in cannot keep its books in {path}: {trouble.strerror}") from trouble
        try:
            _lock(self._file.fileno(), path)
            self.effects = self._read()
        except BaseException as trouble:
            self._file.close()
            if isinstance(trouble, OSError | msgspec.DecodeError):
                told = f"the stand-in's books in {path} cannot be read"
                raise SettingsRefused(told, hint="name another file") from trouble
            raise

    def _read(self) -> list[Effect]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        effects = [msgspec.json.decode(line, type=Effect) for line in whole.splitlines()]
        rest = content[len(whole) :]
        if not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
            raise msgspec.DecodeError("the last line is of something else")
        # A line that a kill cut in two was never answered for.
        self._file.truncate(len(whole))
        return effects

    def write(self, effect: Effect) -> None:
        """Add what was done."""
        self._file.write(msgspec.json.encode(effect) + b"\n")
        self._file.flush()

    def forget(self) -> None:
        """Begin again."""
        self._file.truncate(0)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _lock(handle: int, path: Path) -> None:
    """Wait for the stand-in before this one, which may still be ending: what it writes must be read."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise SettingsRefused(
                    f"another stand-in keeps its books in {path}", hint="wait for the command that started it"
                ) from None
            time.sleep(0.05)
        else:
            return
