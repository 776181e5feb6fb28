"""
Reading back: what the service shows of a customer. One pure module for each read endpoint.

`listings(asked, to_issue)` builds the first page of each listing, `read_page(reply, request, asked, to_issue)` says
what a page shows and which comes next. GET only: nothing here may build a request that issues anything.
"""

from typing import Protocol

from bulkissue.exchange import Reply, Request
from bulkissue.service import cart, coupon, promotions
from bulkissue.service.answer import PromotionOrSeries
from bulkissue.service.page import Asked, Page


class ReadEndpoint(Protocol):
    """What each module of a read endpoint offers."""

    #: From the root; for messages.
    LISTING_PATH: str

    def listings(self, asked: Asked, to_issue: PromotionOrSeries) -> tuple[Request, ...]:
        """The first page of each listing that together show all the customer holds."""
        ...

    def read_page(self, reply: Reply, request: Request, asked: Asked, to_issue: PromotionOrSeries) -> Page:
        """What a page shows of the promotion or series."""
        ...


#: By what was issued.
READERS: dict[str, ReadEndpoint] = {
    "enrol": promotions,
    "earn": promotions,
    "cart": cart,
    "coupon": coupon,
}
