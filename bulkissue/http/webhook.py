"""
A message to a webhook: one POST of JSON, to somebody else than the loyalty service.

It must never show the URL, which may hold a secret, nor follow a redirect with what it says.
"""

from urllib.parse import urlsplit

import httpx


class NotTaken(Exception):
    """The message did not get through; says why in a word, and not where to."""


def post(url: str, document: dict[str, object], timeout: float) -> None:
    """
    Send a document.

    Args:
        url: https; http on loopback only.
        document: Sent as JSON.
        timeout: Seconds for each of connecting, sending and waiting.

    Raises:
        NotTaken: The URL will not do, nobody answered, or the answer is no success.
    """
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    except ValueError:
        plain, parts = False, urlsplit("")
    if not (parts.scheme == "https" or plain):
        raise NotTaken("the URL is not https")
    try:
        answer = httpx.post(url, json=document, timeout=timeout, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as trouble:
        raise NotTaken(type(trouble).__name__) from None  # its text may hold the URL
    if not answer.is_success:
        raise NotTaken(f"HTTP {answer.status_code}")
