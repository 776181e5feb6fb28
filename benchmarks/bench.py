"""
`make bench`: what the program costs beside what people use instead, in one run on one machine.

Prints a table for each section, holds the bars of the project against it, and writes all figures as JSON. A
figure is the median of its repeats, and contestants take turns, so that a busy moment of the machine hits all of
them. It must never compare figures of different runs.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import paced
from figures import MILLION, Bar, Line, Section, verdicts
from measure import Cost, Failed, Server, count_lines, machine, median, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PYTHON = ROOT / ".venv/bin/python"
BULKISSUE = ROOT / ".venv/bin/bulkissue"
PEERS_PYTHON = HERE / ".venv/bin/python"
SECRETS = {"BULKISSUE_CLIENT_KEY": "key", "BULKISSUE_CLIENT_SECRET": "secret"}
LANES = 32
#: Of a run whose input is not clean: some rows are rejected.
_SOME_REJECTED = (0, 5)

_JOB = """\
config_version = 1
[job]
name = "bench"
action = "{action}"
[target]
{target}
[input]
paths = ["{source}"]
[api]
base_url = "{base_url}"
environment = "bench"
[api.limits]
requests_per_minute = {rpm}
concurrency = {lanes}
batch_size = {batch_size}
[guards]
max_failed_ratio = 1.0
"""
_TARGETS = {"earn": "program_id = 469\npromotion_id = 69218", "coupon": "series_id = 544770"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything, and how often."""

    rows: int
    coupon_rows: int
    planned_rows: int
    remembered: int
    repeats: int
    wrk_seconds: int


_USUAL = Sizes(
    rows=MILLION, coupon_rows=15_000, planned_rows=10 * MILLION, remembered=50 * MILLION, repeats=3, wrk_seconds=3
)
_QUICK = Sizes(rows=200_000, coupon_rows=5_000, planned_rows=MILLION, remembered=5 * MILLION, repeats=1, wrk_seconds=1)


class Bench:
    """
    The folder everything happens in, and what all sections need.

    Args:
        work: An empty folder on a real disk; the journal's durability is part of what is measured.
        sizes: How much, how often.
    """

    def __init__(self, work: Path, sizes: Sizes) -> None:
        self.work = work
        self.sizes = sizes
        self.server_program = work / "server"
        subprocess.run(["cc", "-O2", "-o", self.server_program, HERE / "server.c"], check=True)

    def made(self, what: str, of: object, name: str) -> Path:
        """An input, made by `inputs.py`."""
        path = self.work / name
        if not path.exists():
            subprocess.run([PYTHON, HERE / "inputs.py", what, str(of), path], check=True)
        return path

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for one command, gone afterwards."""
        folder = self.work / "now"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def job(
        self,
        folder: Path,
        source: Path,
        base_url: str,
        action: str = "earn",
        *,
        rpm: int = MILLION,
        lanes: int = LANES,
        batch_size: int = 100,
    ) -> Path:
        """A job file, with everything of the run below the same folder."""
        path = folder / "job.toml"
        path.write_text(
            _JOB.format(
                action=action,
                target=_TARGETS[action],
                source=source,
                base_url=base_url,
                rpm=rpm,
                lanes=lanes,
                batch_size=batch_size,
            )
        )
        return path

    def bulkissue(self, action: str, source: Path, rows: int, server: Server) -> Cost:
        """A whole run as a user starts it; refused unless every row succeeded."""
        with self.folder() as folder:
            job = self.job(folder, source, server.base_url, action)
            cost, out = run([BULKISSUE, "run", job, "--yes", "--json"], folder, server=server, environ=SECRETS)
            ledger = Path(json.loads(out)["run_dir"]) / "success.csv"
            _require_all(ledger, rows)
            return cost

    def unwired(self, folder: Path, source: Path, codes: Sequence[int] = (0,)) -> tuple[Cost, Path]:
        """The same without its wire, in a folder that is kept; and the run's own folder."""
        job = self.job(folder, source, "http://127.0.0.1:9")
        command = [PYTHON, HERE / "unwired.py", folder / "answering", "run", job, "--yes", "--json"]
        cost, out = run(command, folder, environ=SECRETS, codes=codes)
        answering = float((folder / "answering").read_text())
        run_dir = Path(json.loads(out)["run_dir"])
        return Cost(cost.processor - answering, cost.wall, cost.peak), run_dir

    def peer(self, script: str, action: str, source: Path, rows: int, server: Server) -> Cost:
        """A peer's whole run; refused unless it has a result for every row."""
        with self.folder() as folder:
            out = folder / "results.csv"
            command = [PEERS_PYTHON, HERE / f"peers/{script}.py", action, source, out, server.base_url]
            cost, _ = run(command, folder, server=server)
            _require_all(out, rows)
            return cost

    def wrk(self, action: str, server: Server) -> tuple[Cost, int]:
        """The ceiling; its cost, and how many requests it sent."""
        bodies = self.made("bodies", action, f"bodies-{action}")
        path = "/v2/coupon/issue" if action == "coupon" else "/v2/promotion/bulk/enrolAndEarn"
        before = server.stats()["requests"]
        with self.folder() as folder:
            seconds = f"-d{self.sizes.wrk_seconds}s"
            command = ["wrk", "-t1", f"-c{LANES}", seconds, "-s", HERE / "wrk.lua", server.base_url, "--", bodies, path]
            cost, out = run(command, folder, server=server)
        if "Non-2xx" in out or "Socket errors" in out:
            raise Failed(f"wrk: {out}")
        return cost, server.stats()["requests"] - before


def _require_all(results: Path, rows: int) -> None:
    if (found := count_lines(results) - 1) != rows:
        raise Failed(f"{results.name} has {found:,} rows, not {rows:,}")


_PEERS = {
    "(b) pandas, itertuples, 16 threads": ("threads", "pandas requests"),
    "(c) asyncio, one httpx client": ("asynchronous", "httpx"),
    "(d) dlt, a custom destination": ("pipeline", "dlt pyarrow requests"),
}
_OWN = "(a) bulkissue"
_SCRIPT = "(b) pandas, itertuples, 16 threads"
_DLT = "(d) dlt, a custom destination"
_CEILING = "(e) wrk, the ceiling"
_ACTIONS = {"bulk": "earn", "coupon": "coupon"}


def _is_there(modules: str) -> bool:
    if not PEERS_PYTHON.exists():
        return False
    command = [str(PEERS_PYTHON), "-c", f"import {', '.join(modules.split())}"]
    return not subprocess.run(command, capture_output=True, check=False).returncode


def install_peers() -> None:
    """Make the peers' environment, if it can be made; what is missing is said in the tables."""
    if all(_is_there(modules) for _, modules in _PEERS.values()):
        return
    say("installing what is measured beside, into benchmarks/.venv")
    subprocess.run([sys.executable, "-m", "venv", HERE / ".venv"], check=True)
    wanted = [line for line in (HERE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    for one in wanted:
        command = [str(PEERS_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", one]
        subprocess.run(command, check=False)


def sending(bench: Bench, action: str) -> Section:
    """Whole jobs over the wire: bulkissue, its peers, and the ceiling."""
    sizes = bench.sizes
    rows = sizes.coupon_rows if action == "coupon" else sizes.rows
    in_a_request = 1 if action == "coupon" else 100
    section = Section(f"{action}, {rows:,} rows in requests of {in_a_request}, input to results")
    source = bench.made("clean", rows, f"clean-{rows}.csv")
    costs: dict[str, list[Cost]] = {}
    troubles: dict[str, str] = {}
    ceiling: list[tuple[Cost, int]] = []
    with Server(bench.server_program) as server:
        contestants = {_OWN: partial(bench.bulkissue, _ACTIONS[action], source, rows, server)}
        for name, (script, modules) in _PEERS.items():
            if _is_there(modules):
                contestants[name] = partial(bench.peer, script, action, source, rows, server)
            else:
                troubles[name] = "not installed"
        for repeat in range(sizes.repeats):
            for name, contestant in contestants.items():
                say(f"{action}: {name}, {repeat + 1} of {sizes.repeats}")
                try:
                    costs.setdefault(name, []).append(contestant())
                except Failed as trouble:
                    troubles[name] = str(trouble)
            if shutil.which("wrk"):
                ceiling.append(bench.wrk(action, server))
    for name in (_OWN, *_PEERS):
        if name in costs or name in troubles:
            section.lines.append(Line(name, rows, costs.get(name, []), troubles.get(name, "")))
    if ceiling:
        sent = int(statistics.median(sent for _, sent in ceiling)) * in_a_request
        section.lines.append(Line(_CEILING, sent, [cost for cost, _ in ceiling]))
    else:
        section.lines.append(Line(_CEILING, note="not installed"))
    _bars_of_sending(section, action)
    return section


def _bars_of_sending(section: Section, action: str) -> None:
    found = {line.name: line for line in section.lines if line.costs}
    if (own := found.get(_OWN)) is None:
        return
    if action == "bulk":
        section.bars.append(Bar("bulk, processor seconds per million rows", own.per_million, 4, "s"))
    for name, bulk, coupon in ((_SCRIPT, 7, 5), (_DLT, 4.5, 0)):
        bound = coupon if action == "coupon" else bulk
        if bound and name in found:
            ratio = found[name].per_million / own.per_million
            section.bars.append(Bar(f"{action}, times less than {name}", ratio, bound, "x", at_least=True))
    if (ceiling := found.get(_CEILING)) is not None:
        times = (ceiling.rows / ceiling.cost.wall) / (own.rows / own.cost.wall)
        section.notes.append(
            f"The server gave wrk {ceiling.rows / ceiling.cost.wall:,.0f} rows a second, {times:.0f} times what "
            f"bulkissue took; during bulkissue's run it was busy {own.cost.server / own.cost.wall:.1%} of the time."
        )


def without_wire(bench: Bench) -> Section:
    """Everything but the wire."""
    rows = bench.sizes.rows
    section = Section(f"everything but the wire, bulk, {rows:,} rows: plan, bodies, answers, journal, ledgers")
    source = bench.made("clean", rows, f"clean-{rows}.csv")
    line = Line("bulkissue, answered at once", rows)
    for repeat in range(bench.sizes.repeats):
        say(f"without the wire, {repeat + 1} of {bench.sizes.repeats}")
        with bench.folder() as folder:
            cost, run_dir = bench.unwired(folder, source)
            _require_all(run_dir / "success.csv", rows)
            line.costs.append(cost)
    section.lines.append(line)
    section.bars.append(Bar("everything but the wire, processor seconds per million rows", line.per_million, 1.5, "s"))
    return section


def planning(bench: Bench, rows: int, repeats: int, kinds: Sequence[str] = ("csv",), peak: float = 3) -> Section:
    """A dry run over a large input, with a history, beside the bare query."""
    section = Section(f"plan, {rows:,} rows")
    messy = bench.made("messy", rows, f"messy-{rows}.csv")
    with bench.folder() as folder, Server(bench.server_program) as server:
        # An earlier run issued to the first of these customers.
        earlier = bench.made("clean", rows // 100, f"clean-{rows // 100}.csv")
        job = bench.job(folder, earlier, server.base_url)
        run([BULKISSUE, "run", job, "--yes", "--json"], folder, environ=SECRETS)
        for kind in kinds:
            source = messy if kind == "csv" else bench.made("parquet", messy, f"messy-{rows}.parquet")
            bench.job(folder, source, server.base_url)
            own, bare = Line(f"bulkissue run --dry-run, {kind}", rows), Line(f"the bare polars query, {kind}", rows)
            for repeat in range(repeats):
                say(f"plan of {rows:,} rows of {kind}, {repeat + 1} of {repeats}")
                command = [BULKISSUE, "run", job, "--dry-run", "--json"]
                cost, out = run(command, folder, environ={**SECRETS, "TMPDIR": str(folder)}, codes=_SOME_REJECTED)
                own.costs.append(cost)
                cost, _ = run([PYTHON, HERE / "steps.py", "query", source, folder / "out.parquet"], folder)
                bare.costs.append(cost)
            counts = ", ".join(f"{count:,} {name}" for name, count in json.loads(out)["counts"].items() if count)
            section.notes.append(f"{kind}, {source.stat().st_size / 1e6:,.0f} MB: {counts}")
            section.lines += own, bare
            if kind == "csv":
                ratio = own.cost.processor / bare.cost.processor
                section.bars.append(Bar(f"plan of {rows:,} rows, times the bare query's processor time", ratio, 3, "x"))
            what = f"plan of {rows:,} rows of {kind}, peak memory"
            section.bars.append(Bar(what, own.cost.peak / 1024, peak, "GiB"))
    return section


def customers(bench: Bench) -> Section:
    """Who is the same customer: wide rows beside the same rows by one identifier alone, and a large history."""
    rows, millions = bench.sizes.rows, bench.sizes.remembered // MILLION
    section = Section(f"customers, {rows:,} rows with three identifiers, {millions} million remembered")
    source = bench.made("wide", rows, f"wide-{rows}.csv")
    one, three = Line("by the mobile alone", rows), Line("all three tied", rows)
    asked = Line(f"all three tied, {millions} million remembered", rows)
    bare = Line(f"the bare polars semi join of {rows:,} numbers with them", rows)
    with bench.folder() as folder:
        job = bench.job(folder, source, "http://127.0.0.1:9")
        text = job.read_text()
        ignoring = f'paths = ["{source}"]\nignore = ["email", "member"]'
        tied = f'{text}[input.columns]\nexternal_id = "member"\n[identifiers]\ndefault_source = "INSTORE"\n'
        single = f'{text}[identifiers]\ndefault_source = "INSTORE"\n'.replace(f'paths = ["{source}"]', ignoring)
        command = [BULKISSUE, "run", job, "--dry-run", "--json"]
        environ = {**SECRETS, "TMPDIR": str(folder)}
        for line, content in ((one, single), (three, tied)):
            job.write_text(content)
            for repeat in range(bench.sizes.repeats):
                say(f"{line.name}, {repeat + 1} of {bench.sizes.repeats}")
                line.costs.append(run(command, folder, environ=environ)[0])
        target = folder / "state" / "bench" / "earn" / "promotion=69218"
        say(f"a history of {millions} million")
        run([PYTHON, HERE / "steps.py", "remember", millions, target], folder)
        size = sum(path.stat().st_size for path in (target / "history").iterdir())
        section.notes.append(f"history: {size / 1e6:,.0f} MB, {size / bench.sizes.remembered:.1f} bytes an identifier")
        keys = folder / "keys.parquet"
        run([PYTHON, "-c", _KEYS.format(rows=rows, out=keys)], folder)
        for repeat in range(bench.sizes.repeats):
            say(f"{asked.name}, {repeat + 1} of {bench.sizes.repeats}")
            asked.costs.append(run(command, folder, environ=environ)[0])
            bare.costs.append(run([PYTHON, HERE / "steps.py", "semi", keys, target], folder)[0])
    section.lines += one, three, asked, bare
    ratio = three.cost.processor / one.cost.processor
    section.bars.append(Bar("planning wide rows, times the same rows by one identifier", ratio, 1.5, "x"))
    added = (asked.cost.processor - three.cost.processor) / bare.cost.processor
    section.bars.append(Bar(f"asking {millions} million remembered, times the bare semi join", added, 5, "x"))
    section.bars.append(Bar("the same, peak memory", asked.cost.peak / 1024, 1, "GiB"))
    return section


#: As many numbers as there are rows, none of which is remembered.
_KEYS = """
import polars as pl
pl.select(key=pl.int_range({rows}, dtype=pl.UInt64).hash(11)).write_parquet("{out}")
"""


def ledgers(bench: Bench) -> Section:
    """The ledgers of a large run, beside polars reading its input and writing it as CSV."""
    rows = bench.sizes.planned_rows
    section = Section(f"ledgers, {rows:,} rows")
    source = bench.made("messy", rows, f"messy-{rows}.csv")
    own, bare = Line("the ledgers", rows), Line("polars, input.parquet to CSV", rows)
    floor = Line("polars, success.csv as Parquet to CSV", rows)
    with bench.folder() as folder:
        say(f"ledgers: a run of {rows:,} rows to make them of")
        cost, run_dir = bench.unwired(folder, source, _SOME_REJECTED)
        whole = Line("the whole run that made them, without its wire", rows, [cost])
        wide = bench.made("parquet", run_dir / "success.csv", "success.parquet")
        out, copy = folder / "ledgers", folder / "copy.csv"
        for repeat in range(bench.sizes.repeats):
            say(f"ledgers, {repeat + 1} of {bench.sizes.repeats}")
            out.mkdir()
            own.costs.append(_step(folder, "ledgers", run_dir, out))
            shutil.rmtree(out)
            for line, parquet in ((bare, run_dir / "input.parquet"), (floor, wide)):
                line.costs.append(_step(folder, "copy", parquet, copy))
                copy.unlink()
    section.lines += own, bare, floor, whole
    ratio = own.cost.processor / bare.cost.processor
    section.bars.append(Bar(f"ledgers of {rows:,} rows, times polars' processor time", ratio, 3, "x"))
    section.bars.append(Bar(f"ledgers of {rows:,} rows, peak memory", own.cost.peak / 1024, 3, "GiB"))
    return section


def _step(folder: Path, *what: object) -> Cost:
    """A step's own processor and wall time, and the peak of its process."""
    cost, out = run([PYTHON, HERE / "steps.py", *what], folder)
    said = json.loads(out)
    return Cost(said["processor"], said["wall"], cost.peak)


def starting(bench: Bench) -> Section:
    """How long one waits for nothing."""
    section = Section("start-up")
    ten = bench.made("clean", 10, "clean-10.csv")
    with bench.folder() as folder:
        job = bench.job(folder, ten, "http://127.0.0.1:9")
        commands = {
            "bulkissue --help": ([BULKISSUE, "--help"], 0.25),
            "bulkissue run --dry-run, ten rows": ([BULKISSUE, "run", job, "--dry-run"], 0.8),
        }
        for name, (command, bound) in commands.items():
            costs = [run(command, folder, environ=SECRETS)[0] for _ in range(7)]
            section.lines.append(Line(name, costs=costs))
            section.bars.append(Bar(f"{name}, wall", median(costs).wall, bound, "s"))
    return section


def pacing(bench: Bench) -> Section:
    """The allowance used, and an undisclosed lower limit found, against servers that count."""
    section = Section("pace, a job of 1,000 requests a minute against a server that counts")
    with bench.folder() as folder:
        for name in ("told", "undisclosed"):
            (folder / name).mkdir()
        limits = {"told": 1000, "undisclosed": 300}
        with (
            Server(bench.server_program, limits["told"]) as told,
            Server(bench.server_program, limits["undisclosed"]) as undisclosed,
        ):
            say("pace: five minutes")
            servers = {"told": told, "undisclosed": undisclosed}
            running = []
            for name, server in servers.items():
                source = bench.made("clean", 100_000, "clean-100000.csv")
                job = bench.job(folder / name, source, server.base_url, rpm=1000, lanes=8, batch_size=1)
                command = [BULKISSUE, "run", job, "--yes", "--json"]
                running.append(paced.start(command, folder / name, SECRETS))
            time.sleep(paced.SECONDS)
            for process in running:
                paced.stop(process)
            logs = {name: server.log() for name, server in servers.items()}
    use = paced.use(logs["told"], limits["told"])
    section.notes.append(f"limit told: {use.said()}")
    section.bars += [
        Bar("pace, share of the allowance used after the first minute", 100 * use.share, 99, "%", at_least=True),
        Bar("pace, requests refused (429)", use.refused, 0, ""),
    ]
    found = paced.use(logs["undisclosed"], limits["undisclosed"])
    section.notes.append(f"limit of {limits['undisclosed']} undisclosed: {found.said()}")
    section.bars += [
        Bar("undisclosed lower limit, settled after", found.settled, 120, "s"),
        Bar("undisclosed lower limit, share of requests refused", 100 * found.refused_share, 5, "%"),
    ]
    return section


def say(what: str) -> None:
    """A word to whoever waits."""
    print(f"  … {what}", file=sys.stderr, flush=True)


_SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "start": starting,
    "bulk": lambda bench: sending(bench, "bulk"),
    "coupon": lambda bench: sending(bench, "coupon"),
    "unwired": without_wire,
    "plan": lambda bench: planning(bench, bench.sizes.planned_rows, bench.sizes.repeats),
    "customers": customers,
    "ledgers": ledgers,
    "pace": pacing,
    "huge": lambda bench: planning(bench, 50 * MILLION, 1, ("csv", "parquet"), 12),
}
_ON_DEMAND = {"pace", "huge"}


def main() -> int:
    """Measure what is asked for; 1 where something of it could not be measured, whatever became of the bars."""
    parser = argparse.ArgumentParser(description="What the program costs beside what people use instead.")
    parser.add_argument("--quick", action="store_true", help="smaller, once each: about three minutes")
    parser.add_argument("--pace", action="store_true", help="also the pace: five minutes more")
    parser.add_argument("--huge", action="store_true", help="also plans of 50 million rows: 10 GB of disk")
    parser.add_argument("--only", nargs="+", choices=_SECTIONS, help="these sections and no other")
    parser.add_argument("--repeats", type=int, help="how often each is measured")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="where to work: a real disk")
    parser.add_argument("--json", type=Path, default=HERE / "results/latest.json", help="where the figures go")
    arguments = parser.parse_args()
    sizes = _QUICK if arguments.quick else _USUAL
    if arguments.repeats:
        sizes = replace(sizes, repeats=arguments.repeats)
    chosen = arguments.only or [name for name in _SECTIONS if name not in _ON_DEMAND or getattr(arguments, name, False)]
    if {"bulk", "coupon"} & set(chosen):
        install_peers()
    arguments.work.mkdir(parents=True, exist_ok=True)
    here, began = machine(), time.monotonic()
    sections: list[Section] = []
    troubles: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=arguments.work.absolute()) as work:
        bench = Bench(Path(work), sizes)
        for name in chosen:
            try:
                sections.append(_SECTIONS[name](bench))
                print(sections[-1].table(), flush=True)
            except Failed as trouble:
                troubles[name] = str(trouble)
                print(f"\n{name}: {trouble}", flush=True)
    bars = [bar for section in sections for bar in section.bars]
    if arguments.quick:
        print("\nbars are for the full sizes: of a quick run start-up alone is a large part")
    else:
        print(f"\nbars\n\n{verdicts(bars)}")
    print(f"\n{'; '.join(f'{name} {value}' for name, value in here.items())}")
    print(f"{time.monotonic() - began:.0f} s; figures in {arguments.json}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": here, "sections": [section.document() for section in sections], "troubles": troubles}
    arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
