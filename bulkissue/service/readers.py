"""
Reading back: what the service shows of a customer. One pure module for each read endpoint.

`listings(asked, offer)` builds the first page of each listing, `read_page(reply, request, asked, offer)` says what a
page shows and which comes next. GET only: nothing here may build a request that issues anything.
"""

from typing import Protocol

from bulkissue.exchange import Reply, Request
from bulkissue.service import cart, coupon, promotions
from bulkissue.service.answer import Offer
from bulkissue.service.page import Asked, Page


class ReadEndpoint(Protocol):
    """What each module of a read endpoint offers."""

    #: From the root; for messages.
    LISTING_PATH: str

    def listings(self, asked: Asked, offer: Offer) -> tuple[Request, ...]:
        """The first page of each listing that together show all the customer holds."""
        ...

    def read_page(self, reply: Reply, request: Request, asked: Asked, offer: Offer) -> Page:
        """What a page shows of the offer."""
        ...


#: By what was issued.
READERS: dict[str, ReadEndpoint] = {
    "enrol": promotions,
    "earn": promotions,
    "cart": cart,
    "coupon": coupon,
}
