"""Compressed files and JSON lines: whole and as they stand, or refused."""

import gzip
import io
import json
import zipfile

import polars as pl
import pytest
import zstandard

from bulkissue.errors import InputRefused
from bulkissue.input import unpacking
from bulkissue.input.intake import take_in
from bulkissue.job.model import InputSection

CSV = b"Mobile,Name\n919986000501,Mira\n919986000502,Zo\xc3\xa9\n"


def zipped(*members: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def take(tmp_path):
    """Takes one file in and gives its rows."""

    def take_file(name, content):
        (tmp_path / name).write_bytes(content)
        out = tmp_path / "input.parquet"
        take_in([tmp_path / name], base=tmp_path, settings=InputSection(), target="t", out=out)
        return pl.read_parquet(out)

    return take_file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", gzip.compress(CSV)),
        ("a.gz", gzip.compress(CSV[:20]) + gzip.compress(CSV[20:])),
        ("a.csv.zst", zstandard.compress(CSV)),
        ("a.zip", zipped(("folder/in.csv", CSV), ("__MACOSX/in.csv", b"x"))),
        ("a.zip", zipped(("in.tsv", CSV.replace(b",", b"\t")))),
        ("a.csv", gzip.compress(CSV)),
    ],
    ids=range(6),  # the time of packing stands in the bytes: workers would name their tests differently
)
def test_a_packed_file(take, name, content):
    """A compressed file gives the rows of what is in it, and is named by its own name."""
    frame = take(name, content)
    assert frame.select("Mobile", "Name").rows() == [("919986000501", "Mira"), ("919986000502", "Zoé")]
    assert frame["_bi_source_file"].unique().to_list() == [name]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv.gz", gzip.compress(CSV * 1000)[:-9], "cut or damaged"),
        ("a.csv.zst", zstandard.compress(bytes(range(256)) * 4000)[:-9], "cut or damaged"),
        ("a.zip", zipped(("in.csv", CSV))[:-9], "cut or damaged"),
        ("a.zip", zipped(("a.csv", CSV), ("b.csv", CSV)), "holds 2 files"),
        ("a.zip", zipped(), "not what its ending says"),
        ("a.gz", CSV, "not what its ending says"),
        ("a.gz", gzip.compress(gzip.compress(CSV)), "packed twice"),
    ],
    ids=range(7),
)
def test_a_packed_file_that_will_not_do(take, name, content, said):
    """A file that is cut, of another format, of several members or packed twice is refused in words."""
    with pytest.raises(InputRefused, match=said):
        take(name, content)


def test_a_bomb(take, monkeypatch):
    """A file that unpacks to far more than its size is refused at the limit, and the limits are said."""
    monkeypatch.setattr(unpacking, "_HARMLESS", 1 << 20)
    with pytest.raises(InputRefused, match="the limits are 500 times its size and 64 GiB"):
        take("a.csv.gz", gzip.compress(b"Mobile\n" + b"1" * (8 << 20)))


def test_json_lines(take):
    """Text and whole numbers are taken; what is neither is kept and names nobody; a broken line is a rejected row."""
    values = ["007", 919986000501, 2**53, 1.5, True, ["a"], None, ""]
    lines = [json.dumps({"external_id": value, "name": "n"}) for value in values]
    lines += ["", "[1]", "{", '{"external_id": "1", "external_id": "2"}', '{"later": "x"}']
    frame = take("a.jsonl", "\n".join(lines).encode())
    assert frame.columns[:3] == ["external_id", "name", "later"]
    assert frame["external_id"].to_list()[:7] == ["007", "919986000501", str(2**53), "1.5", "true", '["a"]', None]
    assert frame["_bi_message"].to_list() == [
        None,
        None,
        'the cell in column "external_id" holds a number beyond 2^53, which may be rounded',
        'the cell in column "external_id" holds a number with a fraction or an exponent',
        'the cell in column "external_id" is a boolean',
        'the cell in column "external_id" is a list or an object',
        None,
        None,
        "line 10 is no JSON object",
        "line 11 is no JSON",
        "line 12 names a key twice",
        None,
    ]
    assert frame["_bi_row"].to_list() == list(range(1, 13))


def test_json_lines_that_will_not_do(take):
    """A file without an object, or with bytes that are no UTF-8, is refused."""
    with pytest.raises(InputRefused, match="no JSON object"):
        take("a.jsonl", b"\n\n")
    with pytest.raises(InputRefused, match="line 2 is not UTF-8"):
        take("a.ndjson", b'{"email": "a@x.org"}\n{"email": "\xe9@x.org"}\n')
