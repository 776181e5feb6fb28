"""
The stand-in's sockets: HTTP/1.1 with h11 on asyncio's transports, and the harm faults do to it.

It speaks to the raw socket because faults need it. It must never listen beyond loopback, and no byte of an answer
leaves before the effect stands in the books.
"""

import asyncio
import ipaddress
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h11
import msgspec

from bulkissue.errors import UsageRefused
from bulkissue.sandbox.books import Books
from bulkissue.sandbox.faults import AT_THE_DOOR, Fault, Faults, Ordered, read_orders
from bulkissue.sandbox.kept import Kept
from bulkissue.sandbox.options import Options
from bulkissue.sandbox.service import (
    FELL_OVER,
    NOTHING,
    Answer,
    Call,
    Service,
    Work,
    call_of,
    json_answer,
    page_of_html,
    refused,
    route_of,
)
from bulkissue.sandbox.traffic import Door, Traffic

_T = TypeVar("_T")
_CONTROL = "/_sandbox/"
_LONGEST_SILENCE = 120.0
_RAW = frozenset({"drop", "reset", "cut", "garbage", "partial"})
_GARBAGE = b"\x00\x01\x02 this is no HTTP \xff\xfe\r\n\r\n"


class Wire(asyncio.Protocol):
    """One connection. Requests come one after the other; what follows on the same connection waits its turn."""

    def __init__(self, stand_in: "StandIn") -> None:
        self._stand_in = stand_in
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._waiting = False
        self._transport: asyncio.Transport
        self.gone = False
        self.on_gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what TCP gives
        self._transport = transport
        self._stand_in.wires.add(self)
        self._stand_in.traffic.connections += 1

    def connection_lost(self, _exc: Exception | None) -> None:
        """The client left, or we did."""
        self.gone = True
        self._stand_in.wires.discard(self)
        if self.on_gone is not None:
            self.on_gone()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._http.receive_data(data)
        if not self._waiting:
            self._read()

    def _read(self) -> None:
        while not self.gone:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                self.drop()
                return
            if isinstance(event, h11.Request):
                self._request, self._body = event, []
            elif isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert self._request is not None  # noqa: S101  # h11 gives a request before its end
                self._waiting = True
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._request.headers}
                target, method = self._request.target.decode("latin-1"), self._request.method.decode()
                self._stand_in.take(self, method, target, headers, b"".join(self._body))
                if self._waiting:
                    return
            else:  # NEED_DATA, PAUSED or closed
                return

    def send(self, answer: Answer, *, last: bool = False) -> None:
        """A whole answer; then the next request, unless this was the last."""
        if self.gone:
            return
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
            *([("Connection", "close")] if last else []),
        ]
        response = h11.Response(status_code=answer.status, headers=headers)
        parts = (
            self._http.send(response),
            self._http.send(h11.Data(data=answer.body)),
            self._http.send(h11.EndOfMessage()),
        )
        self._transport.write(b"".join(part for part in parts if part))
        if self._http.our_state is h11.MUST_CLOSE:
            self.drop()  # what was written still goes out
            return
        self._http.start_next_cycle()
        self._waiting = False

    def go_on(self) -> None:
        """Read what came while an answer was held back."""
        if not self._waiting:
            self._read()

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are, then the end."""
        if not self.gone:
            self._transport.write(data)
        self.drop()

    def drop(self) -> None:
        """Close."""
        self.gone = True
        self._transport.close()

    def reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        if self.gone:
            return
        self.gone = True
        raw: socket.socket = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def abort(self) -> None:
        """Close at once, for the end of the service."""
        self.gone = True
        self._transport.abort()


@dataclass(slots=True)
class Exchange:
    """
    One request on its way to its answer.

    Attributes:
        wire: Where it came from.
        route: The route's name.
        number: The request's number.
        work: What it asks.
        answer: What it gets; until something is done, what a service says that fell over.
        ordered: The fault that strikes it.
    """

    wire: Wire
    route: str
    number: int
    work: Work = NOTHING
    answer: Answer = FELL_OVER
    ordered: Ordered | None = None

    @property
    def fault(self) -> Fault | None:
        """What goes wrong with it."""
        return self.ordered.fault if self.ordered is not None else None

    def wait(self, when: str) -> float:
        """The seconds a `slow` fault takes before or after the effect."""
        fault = self.fault
        return _seconds(fault) if fault is not None and fault.kind == "slow" and fault.when == when else 0


class StandIn:
    """
    The service and its listener, within one event loop.

    Attributes:
        books: What it issued.
        traffic: What it was asked.
        faults: What it does wrong.
        wires: Open connections.
        base_url: Where it listens, once it does.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._host = _loopback(options.host)
        self._port = options.port
        self._epoch = time.time() - time.monotonic()  # one steady clock, told as the time of day
        self._requests = 0
        self._listener: socket.socket | None = None
        self._keeper: socket.socket | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._door = Door(options)
        self._kept = Kept(Path(options.books)) if options.books else None
        self.books = (
            Books(options, self.now(), self._kept.effects, self._kept.write)
            if self._kept
            else Books(options, self.now())
        )
        self.traffic = Traffic(options)
        self.faults = Faults(options.seed, options.faults)
        self.wires: set[Wire] = set()
        self._service = Service(options, self.books, self._door)
        self.base_url = ""

    def now(self) -> float:
        """Seconds since the epoch, never backwards."""
        return self._epoch + time.monotonic()

    # Life

    def listen(self) -> None:
        """
        Take connections, within the running loop; on the same port as before, if there was one.

        Raises:
            OSError: The port is taken.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=1024)
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        self._listener = listener
        self._keep_port(None)
        self._port = listener.getsockname()[1]
        self.base_url = (
            f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"
        )

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                self._start(self._connect(accepted))

    async def _connect(self, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Wire(self), accepted)

    def _start(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def close(self) -> None:
        """End: no listener, no connection, nothing pending."""
        self._shut()
        self._keep_port(None)
        await asyncio.sleep(0.01)  # who was let in at the last moment becomes a wire
        for chore in self._chores:
            chore.cancel()
        for wire in list(self.wires):
            wire.on_gone = None
            wire.abort()
        await asyncio.sleep(0.01)  # the loop closes aborted sockets on its next rounds
        if self._kept:
            self._kept.close()

    def _shut(self) -> None:
        if self._listener is None:
            return
        self._accept(self._listener)  # who already connected is let in: only new connections are refused
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None

    def _keep_port(self, keeper: socket.socket | None) -> None:
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = keeper

    def _stop_listening(self, seconds: float) -> None:
        async def chore() -> None:
            await asyncio.sleep(seconds)
            self.listen()

        if self._listener is None:
            return
        family = self._listener.family
        self._shut()
        # Bound and not listening: connections are refused, and no client is given this port as its own meanwhile.
        keeper = socket.socket(family)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind((self._host, self._port))
        self._keep_port(keeper)
        self._start(chore())

    def reset(self) -> None:
        """Forget what was issued and asked, and the faults ordered since the start; tokens stay good."""
        if self._kept:
            self._kept.forget()
        self.books.forget(self.now())
        self.traffic.forget()
        self.faults = Faults(self._options.seed, self._options.faults)

    # Requests

    def take(self, wire: Wire, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        """Answer a request, now or later, well or badly."""
        self._requests += 1
        call = call_of(self._requests, method, target, headers, body)
        if call.path.startswith(_CONTROL):
            self._send(wire, self._control(call))
            return
        route = route_of(call)
        exchange = Exchange(wire, route or "none", call.number)
        if not route:
            exchange.answer = refused(404, 405)
            self._deliver(exchange)
            return
        now = self.now()
        if route != "token":
            wait = self.traffic.arrive(now)
            turned_away = self._service.throttles(wait) if wait else self._service.turns_away(call, now)
            if turned_away is not None:
                exchange.answer = turned_away
                self._deliver(exchange)
                return
        work = self._service.read(route, call)
        if self._options.refuse_concurrent and self.traffic.busy(work.customers):
            exchange.answer = refused(521, 521)
            self._deliver(exchange)
            return
        exchange.work = work
        self.traffic.enter(work.customers)
        exchange.ordered = self.faults.pick(route, len(work.customers))
        self._after(exchange.wait("before"), self._act, exchange)

    def _act(self, exchange: Exchange) -> None:
        fault = exchange.fault
        if fault is None or fault.applies():
            keep = fault.keep if fault is not None and fault.kind == "partial" else None
            exchange.answer = exchange.work.act(self.now(), keep)
        self._after(self._options.latency_seconds + exchange.wait("after"), self._end, exchange)

    def _end(self, exchange: Exchange) -> None:
        fault, wire, answer = exchange.fault, exchange.wire, exchange.answer
        if fault is not None and fault.kind == "silence":
            self._hold(exchange, min(_seconds(fault), _LONGEST_SILENCE))
            return
        self.traffic.leave(exchange.work.customers)
        if fault is None or fault.kind not in _RAW:
            if fault is not None and exchange.ordered is not None:
                exchange.answer = self._harmed(fault, exchange.ordered, exchange.route, answer)
            self._deliver(exchange)
            return
        self.traffic.answer(exchange.route, str(answer.status) if fault.kind == "cut" else "none")
        if fault.kind == "cut":
            wire.send_raw(_cut(answer))
        elif fault.kind == "garbage":
            wire.send_raw(_GARBAGE)
        elif fault.kind == "reset":
            wire.reset()
        else:  # drop, partial
            wire.drop()

    def _harmed(self, fault: Fault, ordered: Ordered, route: str, answer: Answer) -> Answer:
        if fault.kind == "close_listener":
            self._stop_listening(_seconds(fault))
        elif fault.kind in AT_THE_DOOR:
            return self._service.turned_away(498 if fault.kind == "token_expired" else 401, self.now())
        elif fault.kind in {"status", "wrong_json"}:
            return _put_instead(fault, answer)
        elif fault.kind in {"short", "too_long", "reorder"}:
            return _put_out_of_order(route, answer, ordered)
        return answer

    def _hold(self, exchange: Exchange, seconds: float) -> None:
        wire = exchange.wire

        def end() -> None:
            ending.cancel()
            wire.on_gone = None
            self.traffic.leave(exchange.work.customers)
            self.traffic.answer(exchange.route, "none")
            if not wire.gone:
                wire.drop()

        ending = asyncio.get_running_loop().call_later(0 if wire.gone else seconds, end)
        wire.on_gone = end

    def _deliver(self, exchange: Exchange) -> None:
        answer = exchange.answer
        self.traffic.answer(exchange.route, str(answer.status))
        headers = (*answer.headers, ("X-Cap-Requestid", f"sandbox-{int(self._epoch):x}-{exchange.number}"))
        self._send(exchange.wire, Answer(answer.status, answer.body, answer.content_type, headers))

    def _send(self, wire: Wire, answer: Answer) -> None:
        # While the listener is shut, clients have to come again, and find it shut: no request is lost to the closing.
        wire.send(answer, last=self._listener is None)

    def _after(self, seconds: float, step: Callable[[Exchange], None], exchange: Exchange) -> None:
        if not seconds:
            step(exchange)
            return

        def later() -> None:
            step(exchange)
            exchange.wire.go_on()

        asyncio.get_running_loop().call_later(seconds, later)

    # What tests ask and order

    def stats(self) -> dict[str, Any]:
        """Requests, effects and faults in numbers, as `/_sandbox/stats` shows them."""
        struck, customers = self.faults.counts()
        return self.traffic.stats() | {
            "effects": len(self.books.effects()),
            "double_issues": self.books.double_issues(),
            "faults": struck,
            "fault_customers": customers,
        }

    def issued(self, since: int = 0, *, earlier: bool = False) -> list[dict[str, Any]]:
        """Every effect after the one numbered `since`, in order, as `/_sandbox/issued` shows them."""
        return [effect.shown() for effect in self.books.effects(since, earlier=earlier)]

    def _control(self, call: Call) -> Answer:
        asked = (call.method, call.path.removeprefix(_CONTROL))
        if asked == ("GET", "issued"):
            since = call.query.get("since", "")
            return json_answer(
                200, self.issued(int(since) if since.isdecimal() else 0, earlier="earlier" in call.query)
            )
        if asked == ("GET", "stats"):
            return json_answer(200, self.stats())
        if asked == ("GET", "faults"):
            return json_answer(200, self.faults.standing())
        if asked == ("POST", "faults"):
            try:
                faults = read_orders(call.body)
            except ValueError as trouble:
                return json_answer(400, {"message": str(trouble)})
            for fault in faults:
                self.faults.order(fault)
            return json_answer(200, {"ordered": len(faults)})
        if asked == ("DELETE", "faults"):
            self.faults.clear()
            return json_answer(200, {})
        if asked == ("POST", "reset"):
            self.reset()
            return json_answer(200, {})
        return json_answer(404, {"message": "there are issued, stats, faults and reset"})


def _seconds(fault: Fault) -> float:
    if fault.seconds is not None:
        return fault.seconds
    return _LONGEST_SILENCE if fault.kind == "silence" else 1.0


def _put_instead(fault: Fault, answer: Answer) -> Answer:
    if fault.kind == "wrong_json":
        half = answer.body[: len(answer.body) // 2]
        return Answer(200, half, answer.content_type) if fault.body == "json" else page_of_html(200)
    headers = () if fault.retry_after is None else (("Retry-After", str(fault.retry_after)),)
    if 300 <= fault.status < 400:
        headers = (*headers, ("Location", "/elsewhere"))
    if fault.body == "html":
        return Answer(fault.status, page_of_html(fault.status).body, "text/html", headers)
    if fault.body == "json":
        return Answer(fault.status, refused(fault.status, fault.status).body, headers=headers)
    if fault.body == "empty":
        return Answer(fault.status, b"", headers=headers)
    content_type = "application/xml" if fault.body.startswith("<?xml") else "application/json"
    return Answer(fault.status, fault.body.encode(), content_type, headers)


def _put_out_of_order(route: str, answer: Answer, ordered: Ordered) -> Answer:
    """The true answer with an item less, an item more, or its items in another order."""
    value = msgspec.json.decode(answer.body)
    kind, draws = ordered.fault.kind, ordered.draws
    if route == "bulk" and isinstance(value.get("response"), list):
        items = value["response"]
        if kind == "short" and items:
            del items[draws.randrange(len(items))]
        elif kind == "too_long" and items:
            items.insert(draws.randrange(len(items) + 1), draws.choice(items))
        elif kind == "reorder" and len(items) > 1:
            turn = draws.randrange(1, len(items))  # a turn leaves no item in its place
            value["response"] = items[turn:] + items[:turn]
        value["totalCount"] = len(items)
        value["failureCount"] = sum(1 for item in items if item["errors"])
    elif route == "cart" and value.get("data"):
        data = value["data"]
        key = draws.choice(list(data))
        if kind == "short":
            del data[key]
        elif kind == "too_long":
            data[str(int(key) + 1)] = data[key] | {"customerId": int(key) + 1}
    elif route == "single" and kind == "short":
        value["sideEffects"] = []
    elif route == "single" and kind == "too_long" and value.get("sideEffects"):
        first = value["sideEffects"][0]
        value["sideEffects"].insert(
            0, first | {"promotionId": first["promotionId"] + 1, "earnedId": first["earnedId"] + 1}
        )
    elif route == "coupon" and kind == "short":
        value["code"] = ""
    return Answer(answer.status, msgspec.json.encode(value), answer.content_type, answer.headers)


def _cut(answer: Answer) -> bytes:
    length = len(answer.body)
    head = f"HTTP/1.1 {answer.status} OK\r\nContent-Type: {answer.content_type}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + answer.body[: len(answer.body) // 2]


def _loopback(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise UsageRefused(f"the stand-in service does not listen on {host}", hint="give a loopback address: 127.0.0.1")


def serve(options: Options) -> None:
    """
    Serve until SIGTERM or SIGINT. Prints one JSON line on standard output once it listens.

    Raises:
        UsageRefused: The host is not on loopback, or the port is taken.
    """

    async def life() -> None:
        stand_in = StandIn(options)
        try:
            stand_in.listen()
        except OSError as trouble:
            raise UsageRefused(
                f"the stand-in service cannot listen on port {options.port}: {trouble.strerror}", hint="try --port 0"
            ) from None
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        started = {"event": "sandbox.started", "base_url": stand_in.base_url, "pid": os.getpid()}
        sys.stdout.write(msgspec.json.encode(started).decode() + "\n")
        sys.stdout.flush()
        await ended.wait()
        await stand_in.close()

    asyncio.run(life())


class Running:
    """
    A stand-in service in a thread of this process, on real sockets.

    Attributes:
        base_url: Where it listens.
    """

    def __init__(self, stand_in: StandIn, loop: asyncio.AbstractEventLoop) -> None:
        self._stand_in = stand_in
        self._loop = loop
        self.base_url = stand_in.base_url

    def issued(self, since: int = 0, *, earlier: bool = False) -> list[dict[str, Any]]:
        """Every effect after the one numbered `since`, in order."""
        return self._ask(lambda: self._stand_in.issued(since, earlier=earlier))

    def stats(self) -> dict[str, Any]:
        """Requests, effects and faults in numbers."""
        return self._ask(self._stand_in.stats)

    def order(self, *faults: Fault) -> None:
        """Order faults, behind those already ordered."""
        for fault in faults:
            self._ask(partial(self._stand_in.faults.order, fault))

    def clear(self) -> None:
        """Take all faults back."""
        self._ask(self._stand_in.faults.clear)

    def reset(self) -> None:
        """Forget what was issued and asked, and the faults ordered since the start."""
        self._ask(self._stand_in.reset)

    def _ask(self, question: Callable[[], _T]) -> _T:
        async def asked() -> _T:  # runs in the service's loop, between two requests
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(timeout=30)


@contextmanager
def start_thread(options: Options | None = None) -> Iterator[Running]:
    """
    Serve in a thread while the block runs.

    Raises:
        UsageRefused: The host is not on loopback.
        OSError: The port is taken.
    """
    started: Future[tuple[StandIn, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def life() -> None:
        ended = asyncio.Event()
        try:
            stand_in = StandIn(options or Options())
            stand_in.listen()
        except Exception as trouble:  # noqa: BLE001  # belongs to the caller, in the other thread
            started.set_exception(trouble)
            return
        started.set_result((stand_in, asyncio.get_running_loop(), ended))
        await ended.wait()
        await stand_in.close()

    thread = threading.Thread(target=lambda: asyncio.run(life()), name="sandbox", daemon=True)
    thread.start()
    stand_in, loop, ended = started.result(timeout=30)
    try:
        yield Running(stand_in, loop)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=30)
