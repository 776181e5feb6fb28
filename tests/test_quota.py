"""What headers say of how much may be sent, in all their spellings, and when they lie."""

from email.utils import formatdate

import pytest

from bulkissue.exchange import Quota
from bulkissue.http.quota import quota, retry_after

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"ratelimit": '"default";r=50;t=30'}, Quota(None, 50, 30)),
        ({"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'}, Quota(100, 50, 30, 60)),
        ({"ratelimit-policy": '"default";q=100;w=60'}, Quota(100, None, None, 60)),
        ({"ratelimit-policy": '"a,;b";q=100;w=60;pk=:cHNk:'}, Quota(100, None, None, 60)),
        (
            {
                "ratelimit": '"minute";r=5;t=30, "day";r=900;t=40000',
                "ratelimit-policy": '"minute";q=100;w=60, "day";q=1000;w=86400',
            },
            Quota(100, 5, 30, 60),
        ),
        (
            {"ratelimit": '"minute";r=5;t=30, "day";r=0;t=40000', "ratelimit-policy": '"day";q=1000;w=86400'},
            Quota(1000, 0, 40000, 86400),
        ),
        ({"ratelimit": "limit=100, remaining=50, reset=30"}, Quota(100, 50, 30)),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "50", "ratelimit-reset": "30"}, Quota(100, 50, 30)),
        (
            {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50", "ratelimit-reset": "30"},
            Quota(100, 50, 30),
        ),
        ({"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}, Quota(100, 0, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{NOW + 30:.0f}"}, Quota(None, 7, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{1000 * (NOW + 30):.0f}"}, Quota(None, 7, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset-after": "1.25"}, Quota(None, 7, 1.25)),
        ({"x-rate-limit-remaining": "7", "x-rate-limit-reset": " 30 "}, Quota(None, 7, 30)),
        (
            {
                "x-ratelimit-remaining": "7",
                "x-ratelimit-reset": f"{NOW + 630:.0f}",
                "date": formatdate(NOW + 600, usegmt=True),
            },
            Quota(None, 7, 30),
        ),
    ],
)
def test_spellings(said: dict[str, str], found: Quota) -> None:
    """Every usual spelling is read; an epoch by the service's own clock, where it tells it."""
    assert quota(said, NOW) == found


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"x-ratelimit-limit": "100"},
        {"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "30"},
        {"x-ratelimit-remaining": "101", "x-ratelimit-limit": "100", "x-ratelimit-reset": "30"},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": "-30"},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": "soon"},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": ""},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": f"{NOW - 30:.0f}"},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": f"{NOW + 90_000:.0f}"},
        {"x-ratelimit-remaining": "5", "x-ratelimit-reset": "9" * 400},
        {"x-ratelimit-remaining": "nan", "x-ratelimit-reset": "inf"},
        {"x-ratelimit-remaining": "٥", "x-ratelimit-reset": "٣٠"},
        {"ratelimit": '"default";r=-5;t=30'},
        {"ratelimit": '"default";r=5;t=1e9'},
        {"ratelimit": '"' * 50 + ";r=5"},
        {"ratelimit-policy": '"default";q=0;w=0'},
        {"ratelimit-policy": '"default";q=100;w=0'},
        {"ratelimit-policy": "\x00, ;;;="},
    ],
)
def test_nonsense(said: dict[str, str]) -> None:
    """What is negative, absurd, unreadable, in the past or contradicts itself is as if it were not said."""
    assert quota(said, NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("-5", None),
        ("86401", None),
        ("999999999999", None),
        (formatdate(NOW + 90_000, usegmt=True), None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """Seconds or a date; what is negative, over a day or unreadable is as if it were not said."""
    assert retry_after({"retry-after": text}, NOW) == seconds


def test_no_retry_after() -> None:
    """Nothing said is nothing."""
    assert retry_after({"date": formatdate(NOW, usegmt=True)}, NOW) is None
