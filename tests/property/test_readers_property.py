"""
Files that are damaged in any way: each reader refuses them in words, or gives rows.

`make fuzz` looks for longer: FUZZ says how many files of each kind.
"""

import gzip
import io
import os
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intaking import workbook
from test_workbooks import ods, xls, xlsb

from bulkissue.errors import InputRefused
from bulkissue.input.intake import take_in
from bulkissue.job.model import InputSection

ROWS = [["Mobile", "External Id", "Name"], *([f"9199860{n:05}", f"A{n}", f'Zoé "{n}", x'] for n in range(40))]
MANY = int(os.environ.get("FUZZ", "60"))


def lines(delimiter: str = ",", escaped: str = '""') -> bytes:
    cells = (['"' + cell.replace('"', escaped) + '"' for cell in row] for row in ROWS)
    return "\r\n".join(delimiter.join(row) for row in cells).encode()


def sheet(book):
    page = book.add_worksheet("Customers")
    for at, row in enumerate(ROWS):
        page.write_row(at, 0, row)


def parquet() -> bytes:
    content = io.BytesIO()
    pl.DataFrame(ROWS[1:], schema=ROWS[0], orient="row").write_parquet(content)
    return content.getvalue()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.csv", lines())
    return content.getvalue()


FILES = {
    "plain.csv": b"\n".join(",".join(row).replace('"', "").encode() for row in ROWS),
    "quoted.csv": lines(),
    "semicolons.txt": lines(";"),
    "wide.csv": lines().decode().encode("utf-16"),
    "escaped.csv": lines(escaped='\\"'),
    "in.jsonl": pl.DataFrame(ROWS[1:], schema=ROWS[0], orient="row").write_ndjson().encode(),
    "in.parquet": parquet(),
    "in.xlsx": workbook(sheet),
    "in.xls": xls(ROWS),
    "in.ods": ods(ROWS),
    "in.xlsb": xlsb(ROWS),
    "in.csv.gz": gzip.compress(lines()),
    "in.csv.zst": zstandard.compress(lines()),
    "in.zip": zipped(),
}
PLACE = st.floats(0, 1, exclude_max=True)
INSERTED = st.sampled_from(
    [b'"', b"\n", b"\r", b"\0", b",", b"\\", b"\xff", b"\xe9", b"=1+1", b"{", b"\xef\xbb\xbf", b"7" * 400]
)
DAMAGE = st.one_of(
    st.tuples(st.just("put"), PLACE, st.one_of(INSERTED, st.binary(min_size=1, max_size=8))),
    st.tuples(st.just("over"), PLACE, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 400)),
    st.tuples(st.just("end"), PLACE, st.none()),
)


def damaged(content: bytes, damages) -> bytes:
    for what, place, how in damages:
        at = int(place * len(content))
        if what == "put":
            content = content[:at] + how + content[at:]
        elif what == "over":
            content = content[:at] + how + content[at + len(how) :]
        elif what == "cut":
            content = content[:at] + content[at + how :]
        else:
            content = content[:at]
    return content


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(damages=st.lists(DAMAGE, max_size=4))
def test_a_damaged_file(name, damages):
    """It is refused in words and nothing is written, or every row has a number; no file stays behind."""
    with TemporaryDirectory() as folder:
        base = Path(folder)
        (base / name).write_bytes(damaged(FILES[name], damages))
        chosen = InputSection(hidden_rows="take", escape="\\" if name == "escaped.csv" else None)
        out = base / "input.parquet"
        said, refusal = None, ""
        try:
            said = take_in([base / name], base=base, settings=chosen, target="t", out=out)
        except InputRefused as trouble:
            refusal = f"{trouble.message} {trouble.hint}"
        # Where polars panics, another of its threads may still make the file that it was to write.
        left = sorted(path.name for path in base.iterdir() if path.suffix != ".partial")
        if said is None:
            assert name in refusal
            assert "9199860" not in refusal
            assert left == [name]
            return
        assert left == sorted([name, out.name])
        frame = pl.read_parquet(out)
        assert frame["_bi_row"].to_list() == list(range(1, said.rows + 1))
        if not damages:
            assert frame.select(said.columns).rows() == [tuple(row) for row in ROWS[1:]] or name == "plain.csv"
