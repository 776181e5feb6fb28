"""
Bytes of a text file become UTF-8: what one pass over them tells, and which encoding they are in.

It must never read valid UTF-8 as anything else, nor take a guess for knowledge.
"""

import codecs
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from bulkissue.errors import InputRefused

_PIECE = 1 << 20  # bytes
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Legacy encodings that are looked for. All of them keep ASCII as it is.
_LEGACY = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp874", "cp932", "gb18030", "big5", "cp949"),
]
_WESTERN = set("àáâãäåæçèéêëìíîïñòóôõöøùúûüßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜœŒ“”‘’–—…€°ºª«»·´¡¿®™ \xa0")


@dataclass(frozen=True, slots=True)
class Survey:
    """
    What one pass over the bytes tells.

    Attributes:
        sha256: Of all of them.
        not_utf8: Where they first are no UTF-8, else None.
        foreign: Lines from there on with bytes beyond ASCII, at most 64 KiB.
        whole_lines: How many lines with bytes beyond ASCII are valid UTF-8, and
        broken_lines: how many are not; both 0 where all of the file is.
        nul: Where the first zero byte is, else None.
        quotes: Whether there is any double quote.
        lone_returns: Whether there is a carriage return without a newline behind it.
    """

    sha256: str
    not_utf8: int | None
    foreign: bytes
    whole_lines: int
    broken_lines: int
    nul: int | None
    quotes: bool
    lone_returns: bool


def survey(path: Path) -> Survey:
    """Read all of a file's bytes once."""
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    not_utf8 = nul = None
    foreign = b""
    quotes = False
    returns = pairs = at = 0
    last = b""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            pending = len(decoder.getstate()[0])
            if not_utf8 is None and (pending or not piece.isascii()):
                try:
                    decoder.decode(piece)
                except UnicodeDecodeError as trouble:
                    not_utf8 = at - pending + trouble.start
                    foreign = b"\n".join(re.findall(rb"[^\r\n]*[\x80-\xff][^\r\n]*", piece))[: 1 << 16]
            if nul is None and (place := piece.find(b"\0")) >= 0:
                nul = at + place
            quotes = quotes or b'"' in piece
            if b"\r" in piece or last == b"\r":
                returns += piece.count(b"\r")
                pairs += (last + piece).count(b"\r\n")
            last = piece[-1:]
            at += len(piece)
    if not_utf8 is None and decoder.getstate()[0]:
        not_utf8 = at - len(decoder.getstate()[0])
    whole_lines, broken_lines = (0, 0) if not_utf8 is None else _lines_by_utf8(path)
    return Survey(
        digest.hexdigest(), not_utf8, foreign, whole_lines, broken_lines, nul, quotes, lone_returns=returns != pairs
    )


def _lines_by_utf8(path: Path) -> tuple[int, int]:
    """How many lines with bytes beyond ASCII are valid UTF-8, and how many are not."""
    whole = broken = 0
    with path.open("rb") as file:
        while line := file.readline(_PIECE):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                broken += 1
            else:
                whole += 1
    return whole, broken


def encoding_of(path: Path, name: str, survey: Survey, named: str | None) -> tuple[str, tuple[str, ...], bool]:
    """
    The file's encoding, `utf-8` where nothing has to be written anew, what was assumed, and whether it was guessed.

    Raises:
        InputRefused: It is UTF-8, as it says or as most of its lines beyond ASCII are, but for some bytes.
    """
    if named is not None:
        encoding = codecs.lookup(named).name
        if encoding not in {"utf-8", "utf-8-sig"}:
            return encoding, (), False
        if survey.not_utf8 is not None:
            raise _undecodable(path, name, survey.not_utf8, "utf-8")
        return "utf-8", (), False
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            if encoding == "utf-8" and survey.not_utf8 is not None:
                raise _undecodable(path, name, survey.not_utf8, "utf-8, as its byte-order mark says")
            return encoding, (), False
    if survey.nul is not None and len(head) > 1:
        zeros = [head[start::2].count(0) / len(head[start::2]) for start in (0, 1)]
        for encoding, mostly, hardly in (("utf-16-le", zeros[1], zeros[0]), ("utf-16-be", zeros[0], zeros[1])):
            if mostly > 0.4 and hardly < 0.1:
                return (
                    encoding,
                    (f"read as {encoding}: every other byte is zero, and there is no byte-order mark",),
                    False,
                )
    if survey.not_utf8 is None:
        return "utf-8", (), False
    if survey.whole_lines > survey.broken_lines / 3:
        # A legacy encoding hardly ever makes whole lines of valid UTF-8: these are, so the others are damaged.
        raise InputRefused(
            f"{name}: line {line_at(path, survey.not_utf8)} has bytes that are not UTF-8, and other lines are UTF-8",
            hint="mend that line; or set [input] encoding, if the whole file is in another one",
        )
    encoding = _guess(survey.foreign)
    return encoding, (f"read as {encoding}, by its looks; if names come out wrong, set [input] encoding",), True


def _guess(sample: bytes) -> str:
    """The legacy encoding that lines beyond ASCII are most likely in."""
    high = re.findall(rb"[\x80-\xff]+", sample)
    # In western names one letter in a word is beyond ASCII; elsewhere whole words are.
    if len(high) > sum(map(len, high)) / 2 and set(b"".join(high).decode("cp1252", "replace")) <= _WESTERN:
        return "cp1252"
    from charset_normalizer import from_bytes  # takes a while to load, and few files need it

    best = from_bytes(sample, cp_isolation=_LEGACY).best()
    return "cp1252" if best is None else codecs.lookup(best.encoding).name


def write_as_utf8(path: Path, name: str, to: Path, encoding: str) -> None:
    """
    Write the file anew as UTF-8 without a byte-order mark, in pieces.

    Raises:
        InputRefused: It has bytes that its encoding cannot mean.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    with path.open("rb") as source, to.open("wb") as target:
        first = True
        while True:
            piece = source.read(_PIECE)
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as trouble:
                lines += trouble.object[: trouble.start].decode(encoding, "replace").count("\n")
                break
            lines += text.count("\n")
            target.write((text.removeprefix("\ufeff") if first else text).encode())
            first = first and not text
            if not piece:
                return
    raise InputRefused(
        f"{name}: line {lines} has bytes that are not {encoding}",
        hint='set [input] encoding to what the file was written in, or save it as "CSV UTF-8"',
    )


def write_unescaped(text: Path, to: Path, escape: str) -> None:
    r"""
    Write a UTF-8 file anew with its quotes escaped as CSV has it, by another quote: `\"` becomes `""`.

    An escape character before itself stands for one; before anything else it stays, as in a path.
    """
    mark = escape.encode()
    pattern = re.compile(re.escape(mark) + b"([" + re.escape(mark) + b'"])')
    with text.open("rb") as source, to.open("wb") as target:
        rest = b""
        while piece := source.read(_PIECE):
            piece = rest + piece
            # A pair must not be cut in two.
            marks = len(piece) - len(piece.rstrip(mark))
            keep = len(piece) - marks % 2
            piece, rest = piece[:keep], piece[keep:]
            target.write(pattern.sub(lambda found: b'""' if found[1] == b'"' else mark, piece))
        target.write(rest)


def _undecodable(path: Path, name: str, at: int, encoding: str) -> InputRefused:
    return InputRefused(
        f"{name}: line {line_at(path, at)} has bytes that are not {encoding}",
        hint='set [input] encoding to what the file was written in, for example "cp1252"',
    )


def line_at(path: Path, at: int) -> int:
    """The number of the line that holds the byte `at`."""
    line = 1
    with path.open("rb") as file:
        while at > 0 and (piece := file.read(min(at, _PIECE))):
            line += piece.count(b"\n")
            at -= len(piece)
    return line
