"""Places outside this machine, named by URL, and the rule that a URL holds no secret."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SECRET = re.compile(r"(://[^\s:@]*):\S*@")
_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\")]*")


def is_url(location: str) -> bool:
    """Whether a location is a URL and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


def without_passwords(text: str) -> str:
    """The text with password and query of every URL in it replaced, so that it can be shown."""
    return _QUERY.sub(r"\1***", _SECRET.sub(r"\1:***@", text))


def check_url(location: str) -> str:
    """Refuse a URL that holds a secret, or from which one could follow.

    Args:
        location: a path, which passes as it is, or a URL.

    Raises:
        ValueError: it has a password or a query, or is not a URL that can be read.
    """
    if not is_url(location):
        return location
    try:
        parts = urlsplit(location)
        password, _port = parts.password, parts.port
    except ValueError:
        raise ValueError("is not a URL: check host and port") from None
    if password is not None:
        raise ValueError(
            "should hold no password; use a key or an agent, as ssh does, or the store's own "
            "environment variables"
        )
    if parts.query:
        raise ValueError("should have no query; a store's options are not read from its URL")
    if parts.scheme in ("sftp", "ssh") and not parts.hostname:
        raise ValueError("should name a host, as in sftp://user@host/path")
    return location
