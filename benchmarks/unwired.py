"""
`bulkissue run` with lanes that have no wire: what everything but the sending costs.

The real command in a process of its own, with one thing exchanged: a lane that takes a request and has the
whole answer at once, built from the same template as `server.c`'s. What building the answers costs is
measured and told, so that it can be subtracted. It must never be pointed at a job that is meant.

Usage: unwired.py FILE ARGUMENTS...; FILE gets the processor seconds that went into building answers.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkissue.cli import main as command_line
from bulkissue.commands import session
from bulkissue.exchange import Reply, Request
from bulkissue.job.model import ApiSection

_ITEM = (
    b'{"result":{"entityType":"CUSTOMER","entityId":4NNNNNNNN%02d,"promotionId":69218,"programId":469,'
    b'"issualId":"7NNNNNNNN%02d","earnedId":"8NNNNNNNN%02d"},"errors":[],"warnings":[]}'
)
_ITEMS = [_ITEM % (place, place, place) for place in range(100)]
_WHOLE = b",".join(_ITEMS)
_TOKEN = b'{"data":{"accessToken":"bench","ttlSeconds":86400},"errors":[]}'


class Unwired:
    """A lane that answers by itself, with a success for every customer."""

    answers = 0
    spent = 0.0

    def __init__(self, _: ApiSection) -> None:
        pass

    def build(self, request: Request, _: Mapping[str, str]) -> Request:
        """Nothing is to be prepared."""
        return request

    async def send(self, request: Request) -> Reply:
        """The answer, after the others had their turn, as with a real one."""
        await asyncio.sleep(0)
        began = time.thread_time()
        reply = Reply(200, self._answer(request), f"bench-{self.answers}")
        Unwired.spent += time.thread_time() - began
        return reply

    def _answer(self, request: Request) -> bytes:
        if request.path.endswith("/token/generate"):
            return _TOKEN
        customers = (request.body or b"").count(b'"identifierValue"')
        items = _WHOLE if customers == len(_ITEMS) else b",".join(_ITEMS[:customers])
        Unwired.answers += 1
        body = b'{"response":[%s],"totalCount":%d,"failureCount":0}' % (items, customers)
        return body.replace(b"NNNNNNNN", b"%08d" % self.answers)

    async def close(self) -> None:
        """Nothing is open."""


def main() -> Any:
    """The command, without its wire."""
    told, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    vars(session)["lane_of"] = Unwired
    try:
        return command_line.entry()
    finally:
        told.write_text(str(Unwired.spent))


if __name__ == "__main__":
    sys.exit(main())
