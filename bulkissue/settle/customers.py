"""
Customers: who is behind mobiles, emails and external ids, asked of the service once and remembered.

    state/ENVIRONMENT/customers.parquet     what the service said, mode 0600: it holds identifiers
    state/ENVIRONMENT/customers.lock        held while that file is replaced

Only reads the service. It must never let a run begin on half of the answers: two rows of one customer could then both
be sent. What it found stays, whatever ends it, so that the next start asks for the rest only.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bulkissue import logs, signals
from bulkissue.errors import SettingsRefused, StateRefused, TargetLocked
from bulkissue.files import KernelLock, make_folder, replacing_path
from bulkissue.job.credentials import Credentials
from bulkissue.job.loading import LoadedJob
from bulkissue.job.model import ApiSection
from bulkissue.send.reader import Reader, Stopped, Unread, reading
from bulkissue.service import lookup
from bulkissue.service.page import Asked
from bulkissue.state.allowance import Allowance

#: What one lookup is about. The same mobile may be two people's, by source and account.
KEY = ("identifier_type", "compare_key", "source", "account_id")
#: The remembered file's columns.
SCHEMA = pl.Schema({**dict.fromkeys(KEY, pl.String()), "customer_id": pl.String()})

#: Answers after which they are saved. A kill loses fewer than that, and they can be asked for again.
_SAVED_EVERY = 5000
#: Takes of the lock, a tenth of a second each: whoever has it is replacing a file.
_PATIENCE = 300


@dataclass(frozen=True, slots=True)
class Memory:
    """
    What is remembered of an environment's customers.

    Attributes:
        folder: The environment's folder in the state folder.
        source: What stands for no source.
    """

    folder: Path
    source: str

    def known(self) -> pl.LazyFrame:
        """
        All of it: columns of `SCHEMA`, each key once; `source` also as empty, where a row has none.

        Raises:
            StateRefused: The file cannot be read.
        """
        found = self._kept()
        unsaid = found.filter(pl.col("source") == self.source).with_columns(source=pl.lit(""))
        return pl.concat([found, unsaid])

    def missing(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Those of the rows (`plan.customers_of`) whose customer is still to be looked up, in the same order."""
        wanted = rows.lazy().filter(pl.col("identifier_type") != "id")
        return wanted.join(self.known(), on=KEY, how="anti", maintain_order="left").collect()

    def keep(self, found: list[tuple[Asked, str, str]]) -> None:
        """
        Remember more; durable when this returns.

        Args:
            found: What was asked, its compare key, and the customer id.

        Raises:
            TargetLocked: Other runs keep the file to themselves.
        """
        if not found:
            return
        lines = [(one.identifier_type, key, one.source, one.account_id, customer) for one, key, customer in found]
        new = pl.LazyFrame(lines, schema=SCHEMA, orient="row")
        make_folder(self.folder)
        with self._locked(), replacing_path(self._path) as path:
            pl.concat([self._kept().join(new, on=KEY, how="anti"), new]).sink_parquet(path, compression="zstd")

    @property
    def _path(self) -> Path:
        return self.folder / "customers.parquet"

    def _kept(self) -> pl.LazyFrame:
        if not self._path.exists():
            return pl.LazyFrame(schema=SCHEMA)
        try:
            found = pl.read_parquet_schema(self._path)
        except (pl.exceptions.PolarsError, OSError):
            found = {}
        if found != SCHEMA:
            raise StateRefused(
                f"{self._path} cannot be read",
                hint="remove it: it only spares questions, and the next run asks them again",
            )
        return pl.scan_parquet(self._path, glob=False)

    def forget(self, keys: Collection[tuple[str, str]]) -> int:
        """
        Remove what was looked up of these identifiers (type, compare key), and of those of the same customers.

        Returns:
            How many lines went.
        """
        if not self._path.exists():
            return 0
        kept = self._kept().collect()
        asked = pl.DataFrame(list(keys), schema=dict.fromkeys(KEY[:2], pl.String()), orient="row")
        mine = kept.join(asked, on=KEY[:2], how="semi")
        ids = pl.concat([mine["customer_id"], asked.filter(pl.col("identifier_type") == "id")["compare_key"]])
        named = kept.join(asked, on=KEY[:2], how="semi").select(KEY)
        rest = kept.join(named, on=KEY, how="anti").filter(
            ~pl.col("customer_id").is_in(ids.filter(ids != "").implode()).fill_null(value=False)
        )
        if rest.height < kept.height:
            with self._locked(), replacing_path(self._path) as path:
                rest.write_parquet(path, compression="zstd")
        return kept.height - rest.height

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = KernelLock(self.folder / "customers.lock")
        if not any(lock.take("") for _ in range(_PATIENCE)):
            raise TargetLocked(f"another run keeps {lock.path} to itself", hint="start again when it has ended")
        try:
            yield
        finally:
            lock.give_back()


def memory_of(loaded: LoadedJob) -> Memory:
    """What is remembered of the customers of a job's environment."""
    environment = loaded.job.issues().names()[0].partition("/")[0]
    return Memory(loaded.state_dir / environment, loaded.job.identifiers.default_source or lookup.SOURCE)


def look_up(
    rows: pl.DataFrame,
    memory: Memory,
    api: ApiSection,
    credentials: Credentials,
    allowance: Allowance,
    *,
    name: Callable[[int], str],
    tell: Callable[[int, int], None],
) -> None:
    """
    Ask the service who the rows' customers are, each once, at the configured pace; remember those it knows.

    Whom the service does not know is not remembered, and is asked for again by the next run.

    Args:
        rows: As `Memory.missing` gives them.
        memory: Takes what is found.
        api: Where, how fast, how often, how many at once.
        credentials: Under whose name.
        allowance: What is known of how fast that may be.
        name: A row as messages name it.
        tell: Told how many were asked for, of how many.

    Raises:
        SettingsRefused: Not every question got an answer.
        KeyboardInterrupt: A signal ended it.
    """
    if rows.is_empty():
        return
    search = _Search(rows, memory, name, tell)
    if asyncio.run(_interrupted(search, api, credentials, allowance)):
        raise KeyboardInterrupt
    logs.get().info("customers.looked_up", asked=rows.height, found=search.found)


async def _interrupted(search: "_Search", api: ApiSection, credentials: Credentials, allowance: Allowance) -> bool:
    """Search; whether a signal ended it early."""
    task = asyncio.create_task(search.run(api, credentials, allowance))
    signals.call(task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


class _Search:
    """One session of looking customers up."""

    def __init__(
        self, rows: pl.DataFrame, memory: Memory, name: Callable[[int], str], tell: Callable[[int, int], None]
    ) -> None:
        self.found = 0
        self._asked = 0
        self._count = rows.height
        self._rows = rows.select("row", "identifier", *KEY).iter_rows()
        self._memory = memory
        self._name = name
        self._tell = tell
        self._fresh: list[tuple[Asked, str, str]] = []
        self._unread: list[tuple[int, str]] = []

    async def run(self, api: ApiSection, credentials: Credentials, allowance: Allowance) -> None:
        self._tell(0, self._count)
        try:
            async with reading(api, credentials, allowance) as reader:
                lanes = [
                    asyncio.create_task(self._lane(reader)) for _ in range(min(api.limits.concurrency, self._count))
                ]
                try:
                    await asyncio.gather(*lanes)
                finally:
                    for lane in lanes:
                        lane.cancel()
                    await asyncio.gather(*lanes, return_exceptions=True)
        except Stopped as stopped:
            raise _refused(f"looking customers up was {stopped.halt.message}") from None
        finally:
            self._save()
        if self._unread:
            row, reason = min(self._unread)
            raise _refused(
                f"{len(self._unread)} of {self._count} customers could not be looked up, "
                f"the first at {self._name(row)}: {reason}"
            )

    async def _lane(self, reader: Reader) -> None:
        for row, identifier, kind, key, source, account_id in self._rows:
            asked = Asked(kind, identifier, source or self._memory.source, account_id)
            known = await reader.ask(lookup.request(asked), lookup.read)
            if isinstance(known, Unread):
                self._unread.append((row, known.reason))
            elif not known.settled:
                raise _refused(f"the service refuses to look up the customer at {self._name(row)}: {known.refusal}")
            elif known.customer_id:
                self.found += 1
                self._fresh.append((asked, key, known.customer_id))
            self._asked += 1
            if not self._asked % _SAVED_EVERY:
                self._save()
                self._tell(self._asked, self._count)

    def _save(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._memory.keep(fresh)


def _refused(what: str) -> SettingsRefused:
    return SettingsRefused(
        f"{what}; nothing was sent",
        hint="start again later: what was found is kept, and only the rest is asked for; "
        "or set resolve_customers = false under [identifiers]",
    )


def forget(loaded: LoadedJob, keys: Collection[tuple[str, str]]) -> int:
    """
    Remove customers from what every environment of a job's state folder remembers of lookups.

    Args:
        loaded: The job.
        keys: Their identifiers: type and compare key.

    Returns:
        How many lines went.
    """
    files = sorted(loaded.state_dir.glob("*/customers.parquet"))
    return sum(Memory(path.parent, lookup.SOURCE).forget(keys) for path in files)
