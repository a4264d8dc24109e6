"""The manifest's head as a store keeps it beside a key: a few short texts, in tags or annotations. Pure."""

from collections.abc import Mapping
from datetime import datetime

from ..model import EARLIEST, LATEST, UNREADABLE, Anchor

_HEAD, _NUMBER, _SINCE, _ATTENTION, _PAUSED = "head", "number", "active-since", "attention-at", "paused"
_STANDING_MOVED = "moved"  # in the place of `paused`: Key Vault has room for 15 tags
FIELDS = (_HEAD, _NUMBER, _SINCE, _ATTENTION, _PAUSED)


def write(anchor: Anchor) -> dict[str, str]:
    """An anchor as texts. All of them, always: what is not set is empty, so that an old value never stays behind."""
    return {
        _HEAD: f"{anchor.sequence} {anchor.hash} {anchor.mac}",
        _NUMBER: str(anchor.number),
        _SINCE: _text(anchor.active_since),
        _ATTENTION: _text(anchor.attention_at),
        _PAUSED: _STANDING_MOVED if anchor.moved else "yes" if anchor.paused else "",
    }


def read(texts: Mapping[str, str]) -> Anchor | None:
    """The anchor in such texts; None if there is none, UNREADABLE if what is there is not one."""
    if _HEAD not in texts:
        return None
    try:
        texts[_HEAD].encode()  # a UnicodeEncodeError is a ValueError
        sequence, digest, mac = texts[_HEAD].split(" ")
        return Anchor(
            sequence=int(sequence),
            hash=digest,
            number=int(texts[_NUMBER]),
            active_since=_time(texts[_SINCE]),
            attention_at=_time(texts[_ATTENTION]),
            paused=texts[_PAUSED] == "yes",
            moved=texts[_PAUSED] == _STANDING_MOVED,
            mac=mac,
        )
    except (KeyError, ValueError):
        return UNREADABLE


def _text(time: datetime | None) -> str:
    return time.isoformat() if time else ""


def _time(text: str) -> datetime | None:
    if not text:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or not EARLIEST <= time <= LATEST:
        raise ValueError("a time without its zone, or none of ours")
    return time
