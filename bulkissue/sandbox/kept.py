"""
The stand-in's books in a file: a line of JSON for each effect, so that the next stand-in goes on where one ended.

It must never hold an answer back or let one go before the line of what it did is with the kernel.
"""

import os
from pathlib import Path

import msgspec

from bulkissue.errors import SettingsRefused
from bulkissue.sandbox.books import Effect


class Kept:
    """
    The file of one stand-in at a time.

    Raises:
        SettingsRefused: It cannot be read or written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            # For its owner alone, whatever the umask: a rehearsal has the customers of the real input.
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b")
            self._file.seek(0)
            content = self._file.read()
            # A line that a kill cut in two was never answered for.
            whole = content[: content.rfind(b"\n") + 1]
            self._file.truncate(len(whole))
            self.effects = [msgspec.json.decode(line, type=Effect) for line in whole.splitlines()]
        except (OSError, msgspec.DecodeError) as trouble:
            raise SettingsRefused(
                f"the stand-in's books in {path} cannot be read", hint="name another file"
            ) from trouble

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
