"""
What the stand-in service was told to do wrong, and when.

Pure: a fault is picked by counting and by draws from a seed, so the same seed and the same order of requests give the
same faults. It must never touch the books; it only says what is to happen to a request and to its answer.
"""

import random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

WRITES = ("bulk", "single", "cart", "coupon")
READS = ("promotion_data", "cart_read", "coupons", "lookup")

#: Which routes a fault's `route` means.
ROUTE_GROUPS: dict[str, tuple[str, ...]] = {
    "write": WRITES,
    "read": READS,
    "any": (*WRITES, *READS, "token"),
    **{name: (name,) for name in (*WRITES, *READS, "token")},
}

#: Kinds that refuse the request at the door: nothing is ever applied.
AT_THE_DOOR = frozenset({"token_expired", "unauthorized"})

#: Kinds that need the true answer, so that the effect is always applied.
ON_THE_ANSWER = frozenset({"short", "reorder", "too_long", "close_listener"})


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One thing to do wrong. Where several faults would meet one request, the first ordered one does.

    Without `rate`, `times` and `nth` it meets the next matching request only.

    Attributes:
        kind: What goes wrong:
            `status`: answer with `status` and `body`.
            `drop`: close the connection without an answer. `reset`: the same with a TCP reset.
            `silence`: no answer until the client leaves or `seconds` (at most 120) are over, then drop.
            `cut`: half of the answer's body, its whole length announced, then drop.
            `garbage`: bytes that are not HTTP, then drop.
            `wrong_json`: HTTP 200 with an HTML page (`body = "html"`) or with half of the JSON (`body = "json"`).
            `short`: an item, key or proof is missing from the answer. `too_long`: there is one too many.
            `reorder`: the items of a bulk answer in another order.
            `slow`: `seconds` before the effect (`when = "before"`) or between effect and answer.
            `partial`: the first `keep` customers are served, then drop.
            `token_expired`: code 498 for a valid token. `unauthorized`: 401. Nothing is applied.
            `close_listener`: this request is answered, then connections are refused for `seconds`.
        when: Whether it strikes `before` the effect is applied, which then never happens (but for `slow`), or `after`.
            Means nothing for `short`, `too_long`, `reorder`, `partial`, `close_listener` and the two refusals.
        name: What the statistics call it; the kind if left out.
        route: `bulk`, `single`, `cart`, `coupon`, `promotion_data`, `cart_read`, `coupons`, `lookup`, `token`; or
            `write`, `read`, `any`.
        rate: The share of matching requests it meets.
        times: How often it strikes at most.
        nth: Which matching requests it meets, from 1, counted since it was ordered.
        status: For `status`.
        body: `json`, `html`, `empty`, or the text itself.
        retry_after: Seconds, sent as Retry-After with `status`.
        seconds: For `slow`, `silence`, `close_listener`.
        keep: For `partial`.
    """

    kind: Literal[
        "status",
        "drop",
        "reset",
        "silence",
        "cut",
        "garbage",
        "wrong_json",
        "short",
        "too_long",
        "reorder",
        "slow",
        "partial",
        "token_expired",
        "unauthorized",
        "close_listener",
    ]
    when: Literal["before", "after"] = "before"
    name: str = ""
    route: str = "write"
    rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    times: Annotated[int, Meta(gt=0)] | None = None
    nth: tuple[Annotated[int, Meta(gt=0)], ...] | None = None
    status: Annotated[int, Meta(ge=200, le=599)] = 502
    body: str = "html"
    retry_after: Annotated[int, Meta(ge=0)] | None = None
    seconds: Annotated[float, Meta(ge=0)] | None = None
    keep: Annotated[int, Meta(ge=0)] = 1

    def __post_init__(self) -> None:
        """Refuse a route that does not exist."""
        if self.route not in ROUTE_GROUPS:
            raise ValueError(f"no route is called {self.route!r}; there are {', '.join(ROUTE_GROUPS)}")

    def applies(self) -> bool:
        """Whether the request is applied, wholly or in part."""
        if self.kind in AT_THE_DOOR:
            return False
        return self.when == "after" or self.kind in ON_THE_ANSWER or self.kind in {"slow", "partial"}


class Ordered:
    """
    One ordered fault and how often it was passed and struck.

    Attributes:
        fault: The order.
        struck: How often it struck.
        customers: How many customers the requests it struck were about.
        draws: Its own source of chance, also for what it does to an answer.
    """

    def __init__(self, fault: Fault, seed: str) -> None:
        self.fault = fault
        self.struck = 0
        self.customers = 0
        self.draws = random.Random(seed)
        self._seen = 0

    def meets(self, route: str) -> bool:
        """Whether this request is one of its own. Draws for every matching request, struck or not."""
        fault = self.fault
        if route not in ROUTE_GROUPS[fault.route]:
            return False
        self._seen += 1
        chosen = fault.rate is None or self.draws.random() < fault.rate
        if fault.nth is not None:
            chosen = chosen and self._seen in fault.nth
        times = 1 if fault.rate is None and fault.nth is None and fault.times is None else fault.times
        return chosen and (times is None or self.struck < times)


class Faults:
    """All ordered faults."""

    def __init__(self, seed: int, standing: tuple[Fault, ...] = ()) -> None:
        self._seed = seed
        self._count = 0
        self._ordered: list[Ordered] = []
        self._past: list[Ordered] = []
        for fault in standing:
            self.order(fault)

    def order(self, fault: Fault) -> None:
        """Add a fault behind those already ordered."""
        self._ordered.append(Ordered(fault, f"{self._seed}/{self._count}"))
        self._count += 1

    def clear(self) -> None:
        """Take all orders back. What already went wrong stays in the counts."""
        self._past += self._ordered
        self._ordered = []

    def pick(self, route: str, customers: int) -> Ordered | None:
        """The fault that strikes this request, if any."""
        meeting = [ordered for ordered in self._ordered if ordered.meets(route)]
        if not meeting:
            return None
        meeting[0].struck += 1
        meeting[0].customers += customers
        return meeting[0]

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """By name: how often it struck, and how many customers those requests were about."""
        struck: dict[str, int] = {}
        customers: dict[str, int] = {}
        for ordered in [*self._past, *self._ordered]:
            name = ordered.fault.name or ordered.fault.kind
            struck[name] = struck.get(name, 0) + ordered.struck
            customers[name] = customers.get(name, 0) + ordered.customers
        return struck, customers

    def standing(self) -> list[dict[str, Any]]:
        """The orders in force, as they were given, with how often each struck."""
        return [msgspec.to_builtins(o.fault) | {"struck": o.struck} for o in self._ordered]


def read_orders(body: bytes) -> tuple[Fault, ...]:
    """
    The faults of a `POST /_sandbox/faults`: one, a list, or a table with `faults`.

    Raises:
        ValueError: The body is none of these; the message says where.
    """
    value = msgspec.json.decode(body)
    if isinstance(value, dict):
        value = value.get("faults", [value])
    return msgspec.convert(value, tuple[Fault, ...])
