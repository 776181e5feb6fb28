"""
The stand-in service: the loyalty service's routes, error codes and answer shapes, on loopback, with faults to order.

Tests and rehearsals judge the program by it, so it imports nothing of the program but its error classes. It must never
listen beyond loopback, and never send a byte of an answer before what it did stands in its books.

Like the service, it is not idempotent: whoever sends twice issues twice. It needs no set-up: every well-formed
identifier belongs to a customer, whose id is derived from it, and every program, promotion and series exists. Endings
choose another fate, like the test cards of a payment service. The last four characters count: of an id, a mobile, an
external id, and of what stands before the @ of an email.

    8015   the customer does not exist                         8015; the cart answer leaves the id out and says 8015
    8069   merged: answers carry the surviving customer's id
    8890   the customer's limit is reached, nothing issued     warning 8890; cart 708; coupon 5002
    8896   doubtful code, nothing issued                       8896; cart 710; coupon 5006
    8897   doubtful code, and issued all the same              8896; cart 710; coupon 5006
    8891   neither proof nor error, nothing issued
    8893   neither proof nor error, and issued all the same
    8895   a proof with an error beside it, nothing issued     8896; cart 1040; coupon 5006
    8898   a proof with an error beside it, and issued         8896; cart 1040; coupon 5006
    0701 0709 0722 5001 5002 5004 5005 5006                    coupon only: that code, nothing issued

Promotions, series and credentials have them too, as whole numbers:

    program 1101                                    1101 invalid program
    promotion id or promoIdentifier 8874 8892 8899  that code, for the whole request, as one item
    promotion id or promoIdentifier 8902            of the direct type: EARN works, ENROL meets 8902
    promotion id or promoIdentifier 8896            the whole request is answered with one item 8896
    promotion id or promoIdentifier 8897            the same, and everything is issued
    cart promotion ending in 0404                   404 promotion not found
    series 707 712 713 756 5001                     that code
    series 1001                                     a second issue gives the same coupon again
    series 1002                                     a second issue meets 709
    client secret "wrong"                           320001

A settings file (TOML or JSON, see `options.Options`) declares customers with several identifiers, promotions, series
and earlier issues, and can switch the endings off (`magic = false`). What is declared is as declared, whatever it ends
with. Faults are ordered by settings, by `--faults FILE` or by `POST /_sandbox/faults`, see `faults.Fault`; what was
issued and asked is told by `GET /_sandbox/issued` and `GET /_sandbox/stats`; `POST /_sandbox/reset` forgets it.
"""

from bulkissue.sandbox.faults import Fault
from bulkissue.sandbox.options import Customer, Earlier, Options, Promotion, Series, load
from bulkissue.sandbox.server import Running, serve, start_thread

__all__ = [
    "Customer",
    "Earlier",
    "Fault",
    "Options",
    "Promotion",
    "Running",
    "Series",
    "load",
    "serve",
    "start_thread",
]
