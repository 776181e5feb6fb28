"""
Starts the real command in processes of their own, many times, quickly.

Half a second of each command's life is imports. Here one process, the zygote, has imported the program and done
nothing else; each command is a fork of it: a process of its own that can be killed like any other. The zygote
must never open a file of a run, or start a thread, as its children would inherit both.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from conftest import ENVIRON, Ended


@dataclass
class Started:
    """A command that was started. Its output goes to files, so that nobody has to read while it runs."""

    pid: int
    out: Path
    err: Path
    arguments: tuple[str, ...]
    _zygote: "Zygote" = field(repr=False)
    _code: int | None = None

    @property
    def alive(self) -> bool:
        """Whether it is still running."""
        return self._ended_within(0) is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, unless it has ended."""
        if self._code is None:
            os.kill(self.pid, number)  # not yet waited for, so the id is its own

    def wait(self, timeout: float = 60) -> Ended:
        """Wait for its end; a negative code is the signal that killed it."""
        code = self._ended_within(timeout)
        if code is None:
            self.kill()
            raise TimeoutError(f"{self.arguments} does not end: {self.err.read_text()}")
        return Ended(code, self.out.read_text(), self.err.read_text())

    def _ended_within(self, seconds: float) -> int | None:
        if self._code is None:
            handle = os.pidfd_open(self.pid)
            try:
                if not select.select([handle], [], [], seconds)[0]:
                    return None
            finally:
                os.close(handle)
            self._code = self._zygote.reap(self.pid)
        return self._code


class Zygote:
    """The process that has imported the program."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._count = 0

    def start(self, *arguments: object, cwd: Path, environ: Mapping[str, str] | None = None, **how: Any) -> Started:
        """
        Start a command.

        Args:
            arguments: Of the command line.
            cwd: Its folder; its output goes into a folder beside it.
            environ: Beside the credentials.
            how: `file_size`: the most bytes a file may grow to, as on a full disk. `unprivileged`: even for
                root the modes of files count. `stdin`: what is typed.
        """
        self._count += 1
        outputs = cwd.with_name(f"{cwd.name}-out")
        outputs.mkdir(exist_ok=True)
        out, err = outputs / f"{self._count}.out", outputs / f"{self._count}.err"
        out.touch()
        err.touch()
        if "stdin" in how:
            typed = outputs / f"{self._count}.in"
            typed.write_text(str(how["stdin"]), encoding="utf-8")
            how["stdin"] = str(typed)
        texts = tuple(map(str, arguments))
        child = {
            "arguments": texts,
            "cwd": str(cwd),
            "environ": {**ENVIRON, **(environ or {})},
            "out": str(out),
            "err": str(err),
            **how,
        }
        return Started(self._ask(child), out, err, texts, self)

    def reap(self, pid: int) -> int:
        """The exit code of a child that has ended."""
        return self._ask(pid)

    def end(self) -> None:
        """End the zygote. Its children live on."""
        self._process.communicate()

    def _ask(self, question: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@cache
def zygote() -> Zygote:
    """The one of this test process."""
    one = Zygote()
    atexit.register(one.end)
    return one


def _serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1])
        else:
            answer = os.fork()
            if not answer:
                _become(asked)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _let_modes_count() -> None:
    """Give up what lets root write into a folder that is read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    sets[0] &= ~0b110  # of the effective ones, CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _become(child: dict[str, Any]) -> NoReturn:
    from bulkissue import failpoint
    from bulkissue.cli import main

    os.setsid()
    for place, number, flags in (
        (child.get("stdin", os.devnull), 0, os.O_RDONLY),
        (child["out"], 1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (child["err"], 2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        handle = os.open(place, flags, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = os.fdopen(0, closefd=False)
    if "file_size" in child:
        resource.setrlimit(resource.RLIMIT_FSIZE, (child["file_size"], resource.RLIM_INFINITY))
    if child.get("unprivileged"):
        _let_modes_count()
    os.chdir(child["cwd"])
    os.environ.update(child["environ"])
    failpoint._WANTED, _, failpoint._NUMBER = os.environ.get("BULKISSUE_CRASH_AT", "").partition(":")
    sys.argv = ["bulkissue", *child["arguments"]]
    try:
        main.entry()
    except SystemExit as end:
        # As the interpreter would end, but for taking its modules apart, which takes as long as all the rest.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    raise AssertionError("entry ends the process")


#: What a command imports in its life, beside what these import.
_MODULES = (
    "anyio._backends._asyncio",
    "bulkissue.cli.main",
    "bulkissue.cli.json_output",
    "bulkissue.commands.customer_history",
    "bulkissue.cli.progress",
    "bulkissue.commands.recovery",
    "bulkissue.commands.rehearsal",
    "bulkissue.commands.run",
    "bulkissue.commands.resume",
    "bulkissue.commands.retry",
    "bulkissue.commands.resolve",
    "bulkissue.commands.reconcile",
    "bulkissue.commands.status",
    "bulkissue.cli.summary",
    "bulkissue.commands.verify",
    "rich._emoji_codes",
)


def _import_everything() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    # Reads the certificates, which takes as long as a small run.
    importlib.import_module("bulkissue.http.client").Lane(
        "http://127.0.0.1", connect_timeout=1, read_timeout=1, trust_env=True
    )
    gc.freeze()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    # What the program does at a SIGHUP must not depend on whether the tests were started with nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _import_everything()
    _serve()
