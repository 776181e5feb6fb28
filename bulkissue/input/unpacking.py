"""
Compressed files: `.gz`, `.zst` and `.zip` with one member, unpacked into a private folder before they are read.

It must never hand on a part of a file: what is cut, damaged or grows beyond the limits is refused.
"""

import errno
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from bulkissue.errors import InputRefused
from bulkissue.files import room_for

#: A file that unpacks to more than this many times its size is taken for a bomb, once it is larger than `_HARMLESS`.
LARGEST_RATIO = 500
#: The largest size, in bytes, that a file may unpack to.
LARGEST_SIZE = 64 << 30
_HARMLESS = 256 << 20
_PIECE = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_PIECE = 4096  # bytes; what one unpacks to, at most 128 MiB, is held in memory
_LARGEST_WINDOW = 128 << 20
_ENDINGS = (".gz", ".gzip", ".zst", ".zip")


@dataclass(frozen=True, slots=True)
class Unpacked:
    """
    A file's content.

    Attributes:
        path: Where it was unpacked to.
        name: The member's name, or the file's own without the ending of its compression; it says the format.
    """

    path: Path
    name: str


def is_packed(head: bytes, path: Path) -> bool:
    """Whether a file is compressed, by its first four bytes; a zip archive by its name too, as workbooks are zips."""
    if head.startswith(b"\x1f\x8b") or head == _ZSTD:
        return True
    return path.suffix.lower() in _ENDINGS


def unpack(path: Path, name: str, head: bytes, folder: Path) -> Unpacked:
    """
    Unpack a file into `folder`, in memory that does not grow with it.

    Args:
        path: The compressed file.
        name: What it is called in messages.
        head: Its first four bytes.
        folder: A private folder.

    Raises:
        InputRefused: It is cut or damaged, has a password, another number of members than one, or is too large.
    """
    inner = Path(path.name).stem if path.suffix.lower() in _ENDINGS else path.name
    with _readable(name):
        if head.startswith(b"\x1f\x8b"):
            pieces = _of_gzip(path)
        elif head == _ZSTD:
            pieces = _of_zstd(path)
        elif head == b"PK\x03\x04":
            member = _only_member(path, name)
            inner = Path(member.filename).name
            pieces = _of_zip(path, member)
        else:
            raise InputRefused(f"{name} is not what its ending says", hint="give it the ending of what it is")
        to = folder / f"{len(list(folder.iterdir()))}{Path(inner).suffix.lower()}"
        with room_for(to), to.open("wb") as target:
            _copy(pieces, target, path.stat().st_size, name)
    return Unpacked(to, inner)


def _of_gzip(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as source:
        while piece := source.read(_PIECE):
            yield piece


def _of_zip(path: Path, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as source:
        while piece := source.read(_PIECE):
            yield piece


def _of_zstd(path: Path) -> Iterator[bytes]:
    """Frame after frame. The library's own reader gives the beginning of a file that is cut, and says nothing."""
    frame = None
    with path.open("rb") as source:
        while piece := source.read(_ZSTD_PIECE):
            while piece:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
                yield frame.decompress(piece)
                piece = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError


def _only_member(path: Path, name: str) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        members = [
            one
            for one in archive.infolist()
            if not one.is_dir() and not one.filename.startswith("__MACOSX/") and Path(one.filename).name != ".DS_Store"
        ]
    if len(members) != 1:
        raise InputRefused(
            f"{name} holds {len(members)} files", hint="put one file in it, or unpack it and name the files"
        )
    if members[0].flag_bits & 1:
        raise InputRefused(f"{name} has a password", hint="unpack it first")
    return members[0]


def _copy(pieces: Iterator[bytes], target: IO[bytes], packed: int, name: str) -> None:
    size = 0
    for piece in pieces:
        size += len(piece)
        refuse_bomb(size, packed, name)
        target.write(piece)


def refuse_bomb(size: int, packed: int, name: str) -> None:
    """
    Refuse what unpacks to too much.

    Args:
        size: What it unpacks to, at least, in bytes.
        packed: Its own size in bytes.
        name: What it is called in messages.

    Raises:
        InputRefused: `size` is beyond the limits.
    """
    if size > LARGEST_SIZE or (size > _HARMLESS and size > LARGEST_RATIO * packed):
        raise InputRefused(
            f"{name} unpacks to more than {size >> 20} MiB from {packed} bytes; the limits are "
            f"{LARGEST_RATIO} times its size and {LARGEST_SIZE >> 30} GiB",
            hint="if this is right, unpack it and give the file itself",
        )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, zipfile.BadZipFile, zstandard.ZstdError, gzip.BadGzipFile) as trouble:
        raise InputRefused(f"{name} cannot be unpacked: it is cut or damaged", hint="fetch it again") from trouble
    except OSError as trouble:  # a zip archive that says a member lies before its beginning
        if trouble.errno != errno.EINVAL:
            raise
        raise InputRefused(f"{name} cannot be unpacked: it is damaged", hint="fetch it again") from trouble
    except NotImplementedError as trouble:
        raise InputRefused(f"{name} is packed in a way that is not read here", hint="unpack it first") from trouble
