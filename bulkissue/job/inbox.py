"""
The files that a job takes: those that its patterns name and that are whole, and where they go once they are done with.

It must never take a file that may still grow where the job says how that is told, nor overwrite one.
"""

import glob
import os
import re
import time
from pathlib import Path

from bulkissue.errors import InputRefused, NothingToDo
from bulkissue.job.loading import LoadedJob
from bulkissue.job.model import InputSection

_DONE = "done"
#: What intake can read, by the end of the file's name.
ENDINGS = (
    *("csv", "tsv", "txt", "jsonl", "ndjson", "parquet"),
    *("xlsx", "xlsm", "xlsb", "xls", "ods", "gz", "gzip", "zst", "zip"),
)


def input_files(loaded: LoadedJob) -> list[Path]:
    """
    The files that the job's patterns name today: absolute, sorted, each once.

    Hidden and unfinished files are left out, and so are the folders that a pattern matches beside files.

    Of an inbox (`settle_seconds`, `marker`), files that may still grow are left alone.

    Raises:
        NothingToDo: The job moves what it has taken, and there is nothing new.
        InputRefused: There is no pattern, or one matches nothing, or names what cannot be read; all are named.
    """
    if not loaded.job.input.paths:
        raise InputRefused(
            f"{loaded.path} names no input", hint="set [input] paths in the job file, or give --input PATH"
        )
    settings = loaded.job.input
    files: dict[str, Path] = {}
    problems = []
    growing = 0
    for pattern in loaded.job.input.paths:
        found = _found(pattern)
        matches = [match for match in found if not _left_out(match, settings)]
        whole = [match for match in matches if _is_whole(match, settings)]
        growing += len(matches) - len(whole)
        if not matches and settings.done is None:
            problems.append(f"{pattern}: {'hidden and unfinished files are left out' if found else 'no such file'}")
        elif not found and not (folder := _folder_of(pattern)).is_dir():
            problems.append(f"{pattern}: there is no folder {folder}")
        for match in whole:
            if trouble := _trouble(match):
                problems.append(f"{match}: {trouble}")
            else:
                # A link keeps its own name, as the end of the name says the format.
                files.setdefault(os.path.realpath(match), match.parent.resolve() / match.name)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(problems))
        raise InputRefused(
            f"the input of {loaded.path} cannot be taken:\n{lines}",
            hint=f"[input] paths are relative to {loaded.base}, --input to the current directory",
        )
    if not files:
        left = f"; {growing} files are left alone, as they may still grow" if growing else ""
        if settings.done is not None:
            raise NothingToDo(f"there is nothing new to take{left}")
        raise InputRefused(
            f"there is nothing to take{left}",
            hint="start again settle_seconds after their last change, or once their markers are there",
        )
    return sorted(files.values())


def move_taken(paths: list[Path], settings: InputSection) -> list[Path]:
    """
    Move files that are done with, and their markers, into the folder `done` beside each; never over another.

    Args:
        paths: The files; those that are not there any more are passed over.
        settings: `[input]`.

    Returns:
        Where they are now.

    Raises:
        OSError: One cannot be moved.
    """
    moved = []
    for path in paths:
        if not path.is_file():
            continue
        folder = path.parent / _DONE
        folder.mkdir(exist_ok=True)
        to = _free(folder / path.name)
        path.rename(to)
        moved.append(to)
        if settings.marker is not None:
            path.with_name(path.name + settings.marker).unlink(missing_ok=True)
    return moved


def _free(path: Path) -> Path:
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return free


def _found(pattern: str) -> list[Path]:
    plain = Path(re.sub(r"\[([*?[])]", r"\1", pattern))  # undoes glob.escape
    if os.path.lexists(plain):  # "customers[1].csv" is first of all a name
        return [plain]
    # Path.glob takes no absolute patterns and walks into hidden folders.
    matches = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207 - see above
    return [match for match in matches if not match.is_dir()]


def _folder_of(pattern: str) -> Path:
    """The folder that a pattern looks into, so far as its name is fixed."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed if glob.has_magic(pattern) else fixed.parent


def _left_out(path: Path, settings: InputSection) -> bool:
    # "~$x.xlsx" lies beside a workbook while somebody has it open.
    if path.name.startswith((".", "~$")) or path.name.endswith(".partial"):
        return True
    if settings.done is not None and path.parent.name == _DONE:  # `inbox/**/*.csv` finds what was taken before
        return True
    return settings.marker is not None and path.name.endswith(settings.marker)


def _is_whole(path: Path, settings: InputSection) -> bool:
    """Whether whoever writes a file has come to its end, as far as the job says how that is told."""
    if settings.marker is not None and not path.with_name(path.name + settings.marker).exists():
        return False
    try:
        changed = path.stat().st_mtime
    except OSError:
        return True  # said as trouble of its own
    return time.time() - changed >= settings.settle_seconds


def _trouble(path: Path) -> str:
    if path.is_dir():
        return f"is a folder; name the files in it, such as {path / '*.csv'}"
    if path.exists() and not path.is_file():
        return "is a pipe or a device, and not a file"  # opening it could wait for ever
    if path.suffix[1:].lower() not in ENDINGS:
        return f"its name does not end in one of {', '.join(ENDINGS)}"
    try:
        path.open("rb").close()
    except OSError as refused:
        return f"cannot be read: {refused.strerror}"
    return ""
