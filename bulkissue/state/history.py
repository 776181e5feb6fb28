"""
History: who was, or may have been, issued a target, as keyed digests; a Parquet file for each run.

No identifier stands in it, and it must never hold one: what is compared is HMAC-SHA256 under a key of the state
folder (`key`), cut to 64 bits. Who has the key can try all mobiles there are, so the key is as secret as they are.

That two customers have one digest is possible: with a hundred million remembered and ten million asked for, in one of
twenty thousand runs, for one customer, who would be left out as issued already. Nobody gets anything twice by it.
"""

import hmac
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import polars as pl
from polars_hash import CryptographicHashingNameSpace

from bulkissue.errors import StateRefused
from bulkissue.files import replacing_path, write_whole
from bulkissue.outcomes import KNOWN_BY, STRENGTH

_KEY = "key"
_PROFILE = "bulkissue.profile"
_CHECK = "bulkissue.key"
#: The file in a run folder that holds the digests of customers who were removed from it.
REMEMBERED = "remembered.parquet"
_KEY_BYTES = 32
_DIGEST_BYTES = 8

#: The dtype of a digest.
DIGEST = pl.UInt64()

_PLAIN = {
    "outcome": pl.String(),
    "run": pl.String(),
    "source_file": pl.String(),
    "source_row": pl.UInt64(),
    "reference": pl.String(),
    "answered_at": pl.String(),
}

#: What one run tells, before it is digested: who, how it ended, where it stood, what proves it, when (ISO 8601, UTC),
#: by which other identifiers the customer is known, and how the job read national numbers.
RUN_SCHEMA = pl.Schema(
    {
        "identifier_type": pl.String(),
        "compare_key": pl.String(),
        **_PLAIN,
        "customer_id": pl.String(),
        **{name: pl.String() for name in KNOWN_BY.values()},
        "country_code": pl.String(),
        "national_length": pl.UInt8(),
    }
)

#: A line of history. `key`: of the identifier that was sent. The columns of `KNOWN_BY`: of those that stood beside it.
#: `customer`: of the service's own customer id, where it is known. `mobile_end`: of the last digits of a mobile that
#: is longer than a national number. `country_code`: the job's, empty where it had none, null where nobody knows.
HISTORY_SCHEMA = pl.Schema(
    {
        "identifier_type": pl.String(),
        "key": DIGEST,
        **_PLAIN,
        "customer": DIGEST,
        **dict.fromkeys(KNOWN_BY.values(), DIGEST),
        "country_code": pl.String(),
        "mobile_end": DIGEST,
    }
)


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of identifiers and customer ids under one key; the same text has another one as another type."""

    key: str = field(repr=False)

    def of(self, kind: pl.Expr | str, key: pl.Expr) -> pl.Expr:
        """
        The digests of compare keys (String), `DIGEST`; null stays null.

        Args:
            kind: Their identifier type: a name, or an expression (String).
            key: The compare keys, as `IDENTIFIER_TYPES` have them.
        """
        typed = pl.format("{}:{}", pl.lit(kind) if isinstance(kind, str) else kind, key)
        digest = CryptographicHashingNameSpace(typed).hmac_sha256(key=self.key).str.slice(0, 2 * _DIGEST_BYTES)
        return digest.str.to_integer(base=16, dtype=DIGEST)

    def of_text(self, kind: str, key: str) -> int:
        """The digest of one compare key, as `of` gives it."""
        digest = hmac.digest(self.key.encode(), f"{kind}:{key}".encode(), "sha256")
        return int.from_bytes(digest[:_DIGEST_BYTES], "big")

    def of_known(self, known: pl.DataFrame, kinds: Collection[str] = STRENGTH) -> pl.DataFrame:
        """
        Compare keys, a column for each of `STRENGTH` (String), as digests.

        Args:
            known: The compare keys.
            kinds: The identifier types that are wanted; the others are null.
        """
        nothing = pl.lit(None, DIGEST)
        return known.select(
            (self.of(kind, pl.col(kind)) if kind in kinds else nothing).alias(kind) for kind in STRENGTH
        )

    def of_run(self, parts: Sequence[Path], folder: Path | None = None) -> pl.LazyFrame:
        """
        What a run tells in Parquet files of `RUN_SCHEMA`, as lines of history.

        Args:
            parts: The files.
            folder: The run's folder, where the digests of customers are kept who were removed from it.

        Raises:
            StateRefused: Those digests are of another state folder.
        """
        rows = pl.scan_parquet(list(parts), glob=False) if parts else pl.LazyFrame(schema=RUN_SCHEMA)
        lines = self.digested(rows.filter(pl.col("compare_key").is_not_null()))
        if folder is None or not (folder / REMEMBERED).exists():
            return lines
        return pl.concat([lines, read_remembered(folder / REMEMBERED, self)])

    def digested(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """What a run tells (`RUN_SCHEMA`) as lines of history."""
        kind, key = pl.col("identifier_type"), pl.col("compare_key")
        customer = pl.when(pl.col("customer_id") != "").then("customer_id").when(kind == "id").then(key)
        mobile = pl.when(kind == "mobile").then(key).otherwise(KNOWN_BY["mobile"])
        national = pl.col("national_length").cast(pl.UInt32)
        longer = mobile.str.len_bytes().is_between(national + 1, national + 3)
        end = pl.when(longer).then(mobile.str.tail(national.cast(pl.Int64)))
        columns = {
            "key": self.of(kind, key),
            "customer": self.of("id", customer),
            **{name: self.of(known, pl.col(name)) for known, name in KNOWN_BY.items()},
            "mobile_end": self.of("mobile", end),
        }
        return rows.select(
            columns.get(name, pl.col(name)).cast(kind).alias(name) for name, kind in HISTORY_SCHEMA.items()
        )


class Profile(msgspec.Struct, frozen=True):
    """
    What lines of history are like, so that nobody looks through all of them for what is not there.

    Attributes:
        kinds: The identifier types that anybody is remembered by.
        codes: The country codes that numbers were read with; empty for none.
        ties: Whether anybody is remembered by several identifiers.
        ends: Whether any mobile is longer than a national number.
    """

    kinds: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    ties: bool = False
    ends: bool = False

    def __or__(self, other: "Profile") -> "Profile":
        """Of both together."""
        return Profile(
            self.kinds | other.kinds, self.codes | other.codes, self.ties or other.ties, self.ends or other.ends
        )


def _profile(lines: pl.LazyFrame) -> Profile:
    """By looking through them."""
    there = {name: pl.col(name).is_not_null().any() for name in (*KNOWN_BY.values(), "mobile_end")}
    found = lines.select(**there).collect(engine="streaming").row(0, named=True)
    told = lines.select("identifier_type", pl.col("country_code").fill_null("")).unique().collect(engine="streaming")
    beside = {kind for kind, name in KNOWN_BY.items() if found[name]}
    return Profile(
        frozenset(told["identifier_type"]) | beside, frozenset(told["country_code"]), bool(beside), found["mobile_end"]
    )


@dataclass(frozen=True, slots=True)
class History:
    """
    Lines of history, and the digests they are compared by.

    Attributes:
        lines: `HISTORY_SCHEMA`, in no order.
        digests: Under the key of the state folder.
        known_profile: What the lines are like, where that is known.
    """

    lines: pl.LazyFrame
    digests: Digests
    known_profile: Profile | None = None

    def is_empty(self) -> bool:
        """Whether nobody is remembered."""
        return self.lines.head(1).collect(engine="streaming").is_empty()

    def profile(self) -> Profile:
        """What the lines are like."""
        return self.known_profile or _profile(self.lines)

    def with_runs(self, parts: Sequence[Path]) -> "History":
        """These lines, and what more runs tell (Parquet files of `RUN_SCHEMA`)."""
        return History(pl.concat([self.lines, self.digests.of_run(parts)]), self.digests) if parts else self


def nobody() -> History:
    """The history of a target that was never issued."""
    return History(pl.LazyFrame(schema=HISTORY_SCHEMA), Digests(""))


def make_key(state_dir: Path) -> None:
    """Give a state folder its key, if it has none; the caller holds its lock."""
    path = state_dir / _KEY
    if not path.exists():
        write_whole(path, secrets.token_hex(_KEY_BYTES).encode())


def read_digests(state_dir: Path) -> Digests:
    """
    The digests of a state folder.

    Raises:
        StateRefused: Its key is missing or damaged.
    """
    path = state_dir / _KEY
    try:
        key = path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        key = ""
    if len(key) != 2 * _KEY_BYTES:
        raise StateRefused(
            f"{path} is missing or damaged, and without it nobody can be found in the history beside it",
            hint="restore it from a backup of the state folder; if it is lost, rename the folder, begin with "
            "--init-state, and let `bulkissue state rebuild` take the runs in from their journals",
        )
    return Digests(key)


def read(files: Iterable[Path], digests: Digests) -> History:
    """The lines of history files; those that an earlier version wrote without digests are read as well."""
    keyed: list[Path] = []
    plain: list[Path] = []
    for path in files:
        (keyed if "key" in pl.read_parquet_schema(path) else plain).append(path)
    parts = []
    profile = Profile()
    if keyed:
        parts.append(pl.scan_parquet(keyed, glob=False, schema=HISTORY_SCHEMA))
        for path in keyed:
            profile |= _read_profile(path)
    if plain:
        parts.append(digests.digested(_plain(plain)))
        profile |= _profile(parts[-1])
    lines = pl.concat(parts) if parts else pl.LazyFrame(schema=HISTORY_SCHEMA)
    return History(lines, digests, profile)


def _read_profile(path: Path) -> Profile:
    """A history file's profile, which stands in it."""
    try:
        return msgspec.json.decode(pl.read_parquet_metadata(path)[_PROFILE], type=Profile)
    except (KeyError, msgspec.DecodeError):
        return _profile(pl.scan_parquet(path, glob=False, schema=HISTORY_SCHEMA))


def write(path: Path, lines: pl.LazyFrame) -> None:
    """Write a run's lines of history, whole and durable."""
    with replacing_path(path) as partial:
        # Once to know what they are like, once with that in the file; what makes the lines may take long.
        draft = partial.with_name(f"{partial.name}.draft")
        try:
            lines.sink_parquet(draft, compression="lz4", statistics=False)
            draft.chmod(0o600)
            written = pl.scan_parquet(draft, glob=False, schema=HISTORY_SCHEMA)
            profile = {_PROFILE: msgspec.json.encode(_profile(written)).decode()}
            # Nobody looks a range up in it.
            written.sink_parquet(partial, compression="zstd", compression_level=1, statistics=False, metadata=profile)
        finally:
            draft.unlink(missing_ok=True)


def write_remembered(path: Path, lines: pl.LazyFrame, digests: Digests) -> None:
    """Write the digests of customers who were removed from a run's folder, and under which key they were made."""
    with replacing_path(path) as partial:
        lines.sink_parquet(partial, compression="zstd", metadata={_CHECK: f"{digests.of_text('check', '')}"})


def read_remembered(path: Path, digests: Digests) -> pl.LazyFrame:
    """
    Lines of history as `write_remembered` wrote them.

    Raises:
        StateRefused: They were made under another key: nobody could be found by them.
    """
    if pl.read_parquet_metadata(path).get(_CHECK) != f"{digests.of_text('check', '')}":
        raise StateRefused(
            f"{path} was made under the key of another state folder, and the customers themselves were removed",
            hint="restore the state folder, or its key, from a backup",
        )
    return pl.scan_parquet(path, glob=False, schema=HISTORY_SCHEMA)


def digest_old(path: Path, digests: Digests) -> bool:
    """Replace a history file that holds identifiers; whether it did. One that is killed in between is done again."""
    if "key" in pl.read_parquet_schema(path):
        return False
    write(path, digests.digested(_plain([path])))
    return True


def _plain(paths: list[Path]) -> pl.LazyFrame:
    # Files of early versions do not say by what else a customer is known, nor how national numbers were read.
    return pl.scan_parquet(paths, glob=False, schema=RUN_SCHEMA, missing_columns="insert")
