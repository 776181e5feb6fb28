"""A terminal for tests: a real pseudo-terminal, and what is to be seen on it."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import pyte

_ROWS = 40


class Terminal:
    """
    A command on a terminal of its own.

    Args:
        arguments: Of `bulkissue`.
        cwd: Where it is started.
        columns: How wide the terminal is.
        environ: Variables beside those of this process.

    Attributes:
        raw: All that was written.
        screen: What is to be seen.
    """

    def __init__(self, *arguments: object, cwd: Path, columns: int = 80, environ: dict[str, str] | None = None) -> None:
        self.raw = b""
        self.screen = pyte.Screen(columns, _ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
            command = [sys.executable, "-m", "bulkissue", *map(str, arguments)]
            os.execve(sys.executable, command, {**plain, "TERM": "xterm-256color", **(environ or {})})
        fcntl.ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))

    @property
    def lines(self) -> list[str]:
        """The lines that are to be seen, without blank ones."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def until(self, text: str, seconds: float = 30.0) -> list[str]:
        """Wait until a text is to be seen; the lines at that moment."""
        by = time.monotonic() + seconds
        while not any(text in line for line in self.lines):
            assert time.monotonic() < by, f"{text!r} is not to be seen: {self.lines}"
            assert self._read(), f"ended without {text!r}: {self.lines}"
        return self.lines

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        os.kill(self.pid, signal.SIGINT)

    def type(self, line: str) -> None:
        """Type a line, and return."""
        os.write(self._handle, f"{line}\n".encode())
        time.sleep(0.1)
        self._read()

    def end(self) -> int:
        """Wait for the command's end; its exit code."""
        while self._read():
            pass
        os.close(self._handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        ready, _, _ = select.select([self._handle], [], [], 0.2)
        if not ready:
            return True
        try:
            found = os.read(self._handle, 1 << 16)
        except OSError:  # the other end is closed
            return False
        self.raw += found
        self._stream.feed(found)
        return bool(found)
