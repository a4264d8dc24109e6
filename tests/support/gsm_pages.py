"""Pages of a listing: newest first, and a token that is good for the listing that it came from."""

import base64
import zlib
from typing import Any

from .gsm_checks import Keeps
from .gsm_errors import invalid

MOST_A_PAGE = 25_000


def paged(found: list[tuple[int, Any]], keeps: Keeps, size: int, token: str, what: str) -> tuple[list[Any], str]:
    """A page of what is found and kept, and the token of the next; the numbers say what is newer. `what` is listed."""
    if size < 0:
        raise invalid("page_size must not be negative.")
    before, most = _token_read(token, what), min(size, MOST_A_PAGE)
    left = [(order, item) for order, item in found if (before is None or order < before) and keeps(item)]
    page = left[:most]
    following = _token_made(page[-1][0], what) if len(left) > most else ""
    return [item for _, item in page], following


def _token_made(order: int, what: str) -> str:
    return base64.urlsafe_b64encode(f"{order}:{zlib.crc32(what.encode())}".encode()).decode()


def _token_read(token: str, what: str) -> int | None:
    if not token:
        return None
    try:
        order, _, check = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if int(check) == zlib.crc32(what.encode()):
            return int(order)
    except ValueError:
        pass
    raise invalid("page_token is not one of this listing.")
