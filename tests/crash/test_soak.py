"""
The soak: random SIGKILLs and random faults over random runs, and at the end the books.

SOAK_KILLS says how many kills (12 if left out; `make crash` sets several hundred), SOAK_SEED which ones. Each
episode prints its seed; SOAK_SEED=that SOAK_KILLS=1 repeats the episode, as far as clocks and kernels allow.
"""

import csv
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from conftest import Ended
from judge import Judgement, customer, hold_against_books, settled_runs
from zygote import Started, zygote

from bulkissue.commands.verify import verify
from bulkissue.outcomes import Outcome
from bulkissue.sandbox import Fault, Running

KILLS_OF_AN_EPISODE = 4
EPISODES = -(-int(os.environ.get("SOAK_KILLS", "12")) // KILLS_OF_AN_EPISODE)
FIRST_SEED = int(os.environ.get("SOAK_SEED") or secrets.randbits(32))

TARGETS: dict[str, dict[str, Any]] = {
    "enrol": {"program_id": 469, "promotion_id": 69218},
    "earn": {"program_id": 469, "promotion_id": 69218},
    "issue": {"program_id": 469, "promotion_id": 69218},
    "cart": {"promotion_id": "67dd4210ef21a64211227e04"},
    "coupon": {"series_id": 544770},
}
TYPES = {
    "enrol": ("id", "mobile", "email"),
    "earn": ("id", "mobile", "email", "external_id"),
    "issue": ("id", "mobile", "email", "external_id"),
    "cart": ("id",),
    "coupon": ("id", "mobile", "email", "external_id"),
}
#: Endings that refuse one customer, and those that leave doubt, with and without an effect.
REFUSED = ("8015", "8890")
DOUBTFUL = ("8896", "8897", "8891", "8893", "8895", "8898")

#: Faults after which nobody can know; the customers they strike may be unknown.
LOSSES: tuple[dict[str, Any], ...] = (
    {"kind": "drop"},
    {"kind": "reset"},
    {"kind": "cut", "when": "after"},
    {"kind": "garbage"},
    {"kind": "wrong_json", "body": "html"},
    {"kind": "wrong_json", "body": "json", "when": "after"},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 502},
    {"kind": "status", "status": 503, "body": "empty"},
    {"kind": "status", "status": 408},
    {"kind": "status", "status": 302},
    {"kind": "partial", "keep": 2},
    {"kind": "short"},
    {"kind": "too_long"},
    {"kind": "slow", "seconds": 0.7, "times": 1},
)
#: Faults that a run can know all about.
REFUSALS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 429, "retry_after": 0, "times": 1},
    {"kind": "status", "status": 429, "retry_after": 1, "times": 1},
    {"kind": "status", "status": 503, "body": '{"errors":[{"code":4001,"message":"unavailable"}]}', "retry_after": 0},
    {"kind": "status", "status": 400, "body": "html", "when": "before"},
    {"kind": "token_expired"},
    {"kind": "unauthorized"},
    {"kind": "slow", "seconds": 0.1},
    {"kind": "close_listener", "seconds": 0.2, "times": 1},
)
#: The slowest effect comes so long after its request.
SETTLED_AFTER = 1.0


@dataclass
class Episode:
    """One target, one service, some files, and what was done to them."""

    seed: int
    folder: Path
    service: Running
    draws: random.Random
    action: str
    batch: int = 1
    lanes: int = 1
    kills: int = 0
    given_up: int = 0
    usual: float = 0.4
    ended: Counter[int] = field(default_factory=Counter)

    @property
    def runs_dir(self) -> Path:
        return self.folder / "runs"

    def start(self, *arguments: object) -> Started:
        return zygote().start(*arguments, cwd=self.folder)

    def accept(self, started: Started) -> Ended:
        """Wait for a command; whatever it ends with, it is one of the ends the contract has."""
        ended = started.wait()
        self.ended[ended.code] += 1
        unheard = -signal.SIGTERM if not ended.err else -signal.SIGKILL  # it came before the program did
        assert ended.code in {0, 3, 5, 6, 7, 8, 75, -signal.SIGKILL, unheard}, (started.arguments, ended)
        assert "--init-state" not in ended.err, ended.err
        if ended.code == 3:
            said = ended.json
            stop = (said.get("stop") or {}).get("reason")
            assert stop == "guard.credentials", (started.arguments, ended.out, ended.err)
        return ended

    def write_input(self, name: str, rows: list[tuple[str, str]]) -> str:
        path = self.folder / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("type", "value"), *rows])
        return name

    def manifests(self) -> dict[Path, dict[str, Any]]:
        found = sorted(self.runs_dir.glob("*/run.json"))
        return {path.parent: msgspec.json.decode(path.read_bytes()) for path in found}

    def command(self) -> list[object]:
        """Something a person or a cron line may come upon."""
        runs = self.manifests()
        open_runs = [folder for folder, manifest in runs.items() if manifest["state"] != "completed"]
        done = [folder for folder, manifest in runs.items() if manifest["state"] == "completed"]
        chance = self.draws.random()
        if open_runs and chance < 0.45:
            return ["resume", self.draws.choice(open_runs), "--yes", "--json"]
        if done and chance < 0.6:
            return ["retry", self.draws.choice(done), "--yes", "--json"]
        name = self.draws.choice(("all.csv", "half.csv", f"copy-{secrets.token_hex(2)}.csv"))
        if name.startswith("copy"):
            (self.folder / name).write_bytes((self.folder / "all.csv").read_bytes())
        return ["run", "job.toml", "--input", name, "--yes", "--json"]

    def disturb(self, started: Started) -> None:
        """Kill it at some instant, or send it signals, or let it be."""
        chance = self.draws.random()
        instant = self.draws.uniform(0, 1.2 * self.usual)
        requests = self.requests() + self.draws.randrange(60)
        if self.draws.random() < 0.5:
            time.sleep(instant)
        else:  # in the thick of the sending
            while self.requests() < requests and started.alive:
                time.sleep(0.001)
        if chance < 0.8:
            if started.alive:
                started.kill()
                self.kills += 1
        elif chance < 0.9:
            started.kill(signal.SIGTERM)
            if self.draws.random() < 0.5:
                started.kill(signal.SIGTERM)
                self.given_up += 1

    def requests(self) -> int:
        """Requests the service has answered, or not."""
        return int(self.service.stats()["requests_total"])


def customers(draws: random.Random, action: str) -> list[tuple[str, str]]:
    """Who is in the file: several identifier types, repeats, nonsense, and some with a fate of their own."""
    many = draws.randrange(40, 160) if action in {"enrol", "earn", "cart"} else draws.randrange(25, 70)
    rows = []
    for n in range(many):
        kind = draws.choice(TYPES[action])
        ending = f"{n:04}" if draws.random() > 0.05 else draws.choice((*REFUSED, *DOUBTFUL))
        rows.append(
            (
                kind,
                {
                    "id": f"5{n:03}{ending}",
                    "mobile": f"9199{n:04}{ending}",
                    "email": f"Asha.{n}.{ending}@example.com",
                    "external_id": f"000{n:03}{ending}",
                }[kind],
            )
        )
    rows += draws.sample(rows, 3)
    rows += [("mobile", "12"), ("email", "nobody")]
    draws.shuffle(rows)
    return rows


def begin(seed: int, folder: Path, serve: Callable[..., Running]) -> Episode:
    """A service with its faults, a job and its files."""
    draws = random.Random(seed)
    action = draws.choice(list(TARGETS))
    service = serve(
        magic=True, seed=seed, latency_seconds=draws.choice((0, 0.002, 0.01)), refuse_concurrent=True, token_ttl=20
    )
    folder.mkdir()
    episode = Episode(seed, folder, service, draws, action)
    episode.lanes, episode.batch = draws.randint(1, 8), draws.choice((1, 2, 7, 20, 50))
    for place, fault in enumerate(draws.sample(LOSSES, 3)):
        when = fault.get("when") or draws.choice(("before", "after"))
        order = {"rate": draws.uniform(0.02, 0.1), "name": f"loss-{place}", **fault, "when": when}
        service.order(Fault(**order))
    for fault in draws.sample(REFUSALS, 3):
        service.order(Fault(**{"rate": draws.uniform(0.02, 0.1), **fault, "name": "refusal"}))
    document = {
        "config_version": 1,
        "job": {"name": "soak", "action": action},
        "target": TARGETS[action],
        "input": {"paths": ["all.csv"]},
        "identifiers": {"default_source": "INSTORE"},
        "api": {
            "base_url": service.base_url,
            "limits": {
                "requests_per_minute": 600_000,
                "concurrency": episode.lanes,
                "batch_size": episode.batch,
                "read_timeout_seconds": 0.6,
                "connect_timeout_seconds": 2,
                "max_attempts": draws.randint(1, 4),
            },
        },
        "guards": {"max_unknown": draws.choice((10, 1000)), "canary": draws.random() < 0.7, "max_failed_ratio": 1},
    }
    (folder / "job.toml").write_bytes(tomli_w.dumps(document).encode())
    rows = customers(draws, action)
    episode.write_input("all.csv", rows)
    episode.write_input("half.csv", rows[: len(rows) // 2])
    return episode


def go_through(episode: Episode) -> None:
    """Start, kill, resume, retry, in a random order, until there were kills enough."""
    while episode.kills < KILLS_OF_AN_EPISODE:
        started = episode.start(*episode.command())
        beside = None
        if episode.draws.random() < 0.2:
            beside = episode.start("run", "job.toml", "--input", "half.csv", "--yes", "--json")
        began = time.monotonic()
        episode.disturb(started)
        if episode.accept(started).code >= 0:
            episode.usual = 0.7 * episode.usual + 0.3 * (time.monotonic() - began)
        if beside is not None:
            episode.accept(beside)
        if episode.draws.random() < 0.3:
            for folder in episode.manifests():
                assert episode.start("status", folder).wait().code == 0


def finish(episode: Episode) -> Judgement:
    """With the faults gone: bring every run to its end, and hold all of them against the books."""
    episode.service.clear()
    time.sleep(SETTLED_AFTER)
    for folder, manifest in episode.manifests().items():
        if manifest["state"] == "completed" and manifest["exit_code"] is not None:
            continue
        for _ in range(20):  # a guard may stop it again and again, each time further on
            if episode.accept(episode.start("resume", folder, "--yes", "--json")).json["state"] == "completed":
                break
        else:
            raise AssertionError(f"{folder.name} does not come to its end")
    return judged(episode)


def judged(episode: Episode) -> Judgement:
    """Hold every run against the books."""
    runs = settled_runs(episode.runs_dir)
    for folder in runs:
        assert not verify(folder)[1]
    effect = {"issue": "earn"}.get(episode.action, episode.action)
    judgement = hold_against_books(runs, episode.service.issued(), {"effect": effect})
    assert episode.service.stats()["max_concurrent_per_customer"] <= 1
    return judgement


def expect_no_more_unknown_than_lost(episode: Episode, judgement: Judgement) -> None:
    """Each unknown row has its cause: a kill, a signal, a fault, or a customer with a doubtful fate."""
    reasons: Counter[str] = Counter()
    for rows in judgement.rows.values():
        for row in rows.values():
            if row["_bi_outcome"] == Outcome.UNKNOWN:
                family = row["_bi_reason"].partition(".")[0]
                ending = row["_bi_identifier"].partition("@")[0][-4:]
                # Whom the service does not know it does not count among those a fault strikes.
                fate = ending in DOUBTFUL or ending == "8015"
                cause = "crash" if family == "crash" else "fate" if fate else row["_bi_reason"]
                reasons[cause] += 1
    stats = episode.service.stats()
    struck = sum(many for name, many in stats["fault_customers"].items() if name.startswith("loss"))
    at_once = episode.lanes * episode.batch
    assert reasons.pop("crash", 0) <= episode.kills * at_once
    assert reasons.pop("net.cancelled", 0) <= episode.given_up * at_once
    reasons.pop("fate", None)
    assert reasons.total() <= struck, (reasons, stats)


def settle_all(episode: Episode, judgement: Judgement) -> None:
    """A person who has read the books settles every unknown row, truthfully."""
    for name, rows in judgement.rows.items():
        words = [
            (
                row["_bi_source_file"],
                row["_bi_row"],
                "issued" if customer(row) in judgement.issued else "not-issued",
            )
            for row in rows.values()
            if row["_bi_outcome"] == Outcome.UNKNOWN
        ]
        if not words:
            continue
        with (episode.folder / "words.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "row", "as"), *words])
        said = ["--from", "words.csv", "--by", "Asha", "--evidence", "the books", "--json"]
        ended = episode.accept(episode.start("resolve", name, *said))
        assert ended.counts.get("unknown", 0) == 0, ended.out


@pytest.mark.parametrize("number", range(EPISODES))
def test_soak(number, serve, tmp_path):
    """Whatever is killed and whatever fails, nobody is issued twice, and in the end everybody is issued."""
    seed = FIRST_SEED + number
    print(f"SOAK_SEED={seed}", flush=True)  # noqa: T201 - shown when the test fails, and by make crash
    episode = begin(seed, tmp_path / "soak", serve)
    go_through(episode)
    judgement = finish(episode)
    expect_no_more_unknown_than_lost(episode, judgement)
    settle_all(episode, judgement)
    for name in ("all.csv", "half.csv"):
        episode.accept(episode.start("run", "job.toml", "--input", name, "--yes", "--json"))
    judgement = judged(episode)
    left = judgement.customers() - judgement.issued - judgement.in_doubt
    assert {identifier.partition("@")[0][-4:] for _, identifier in left} <= {*REFUSED, *DOUBTFUL}, left
    assert not episode.service.stats()["double_issues"]
    print(f"  {episode.action}: {len(judgement.rows)} runs, ends {dict(episode.ended)}", flush=True)  # noqa: T201
