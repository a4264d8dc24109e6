"""What examples are made of: nasty texts, values of JSON, and documents and bytes with a few things changed in them."""

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

NASTY = (
    "",
    " ",
    "\0",
    "\n",
    "\x1b[2J",
    "²",
    "\u0661",
    "é",
    "\ud800",
    "\U0001f511",
    "-1",
    "0",
    "1e400",
    "9" * 30,
    "9" * 5000,
    "0x" + "f" * 4000,
    "NaN",
    "null",
    "../../etc/passwd",
    "reserved--manifest-keys",
    "a-key--staged",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00",
    "2026-02-30T00:00:00Z",
    "1:²",
    "²:a",
    "1:é",
    "%s%n{0}",
    "'; DROP TABLE keys; --",
    "a" * 600,
    "a" * 70_000,
)
texts: SearchStrategy[str] = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(codec=None), max_size=20),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
)
whole_numbers: SearchStrategy[int] = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**18, 10**30, 10**400]),
    st.integers(),
)
scalars: SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), whole_numbers, st.floats(allow_nan=True, allow_infinity=True), texts
)


def _nested(depth: int, in_lists: bool) -> Any:  # drawn
    made: Any = 1
    for _ in range(depth):
        made = [made] if in_lists else {"a": made}
    return made


values: SearchStrategy[Any] = st.one_of(
    scalars,
    st.recursive(
        scalars, lambda held: st.lists(held, max_size=4) | st.dictionaries(texts, held, max_size=4), max_leaves=6
    ),
    st.builds(_nested, st.sampled_from([3, 60, 200]), st.booleans()),
)


def deep(depth: int) -> list[bytes]:
    """Bodies that are nothing but depth: more than any decoder goes down."""
    return [b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth, b'{"action":' * depth + b"1" + b"}" * depth]


# --- documents


class Edit(NamedTuple):
    """One change to a document: what is done, where (counted over all places, modulo), with what."""

    kind: str
    place: int
    value: Any


TIMES = (
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00",
    "1970-01-01T00:00:00Z", "2026-01-01T12:00:00.000001Z", "2038-01-19T03:14:08+23:59", "2026-01-01T12:00:00-00:01",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 3, 4, 99, 2**31, 2**63, 2**64, 10**30, 10**300)
WORDS = (
    "", "²:a", "1:²", "1:" + "0" * 64, "9" * 5000 + ":a", "AES-256", "AES-999", "bytes-1", "bytes-" + "9" * 400, "٣",
    "active", "decrypt-only", "disabled", "destroyed", "staged", "rotate", "restore", "migrate", "create", "rollback",
    "import", "adopt", "retire", "disable", "enable", "destroy", "promoted", "discarded", "moved-to", "imported",
    "repaired", "paused", "rotation-started", "change-started", "adopted", "rolled-back", "restored", "x" * 70_000,
)  # fmt: skip
_TIME = re.compile(r"\d{4}-\d\d-\d\dT.*")
KINDS = ("replace", "delete", "add", "rename", "swap", "nudge", "repeat")
edits: SearchStrategy[list[Edit]] = st.lists(
    st.builds(Edit, st.sampled_from(KINDS), st.integers(0, 400), values), min_size=1, max_size=3
)


fitting: SearchStrategy[list[Edit]] = st.lists(
    st.builds(
        Edit, st.sampled_from(("fit",) * 6 + ("delete", "swap", "nudge")), st.integers(0, 400), st.integers(0, 400)
    ),
    min_size=1,
    max_size=3,
)
"""Changes after which a document is one of its kind more often than not."""


def edited(document: Any, changes: Sequence[Edit]) -> Any:
    """A copy with the changes made."""
    made = copy.deepcopy(document)
    for change in changes:
        every = list(places(made))
        if every:
            _change(every, change)
    return made


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and each index or field of it."""
    held = [document]
    while held:
        each = held.pop()
        inside = (
            list(each.items()) if isinstance(each, dict) else list(enumerate(each)) if isinstance(each, list) else []
        )
        for place, value in inside:
            yield each, place
            held.append(value)


def _change(places: Sequence[tuple[Any, Any]], change: Edit) -> None:
    holder, place = places[change.place % len(places)]
    _CHANGES[change.kind](places, holder, place, change)


def _replace(_places: Any, holder: Any, place: Any, change: Edit) -> None:
    holder[place] = copy.deepcopy(change.value)  # a later change goes into it


def _delete(_places: Any, holder: Any, place: Any, _change: Edit) -> None:
    del holder[place]


def _add(_places: Any, holder: Any, _place: Any, change: Edit) -> None:
    if isinstance(holder, dict):
        holder[change.value if isinstance(change.value, str) else "another"] = copy.deepcopy(change.value)
    else:
        holder.append(copy.deepcopy(change.value))


def _rename(_places: Any, holder: Any, place: Any, change: Edit) -> None:
    if isinstance(holder, dict):
        holder[change.value if isinstance(change.value, str) else f"{place}s"] = holder.pop(place)


def _swap(places: Sequence[tuple[Any, Any]], holder: Any, place: Any, change: Edit) -> None:
    other, there = places[(change.place * 7 + 3) % len(places)]
    holder[place], other[there] = copy.deepcopy(other[there]), copy.deepcopy(holder[place])


def _nudge(_places: Any, holder: Any, place: Any, change: Edit) -> None:
    held = holder[place]
    if isinstance(held, bool) or held is None:
        holder[place] = not held
    elif isinstance(held, int):
        holder[place] = held + (1 if change.place % 2 else -1)
    elif isinstance(held, str):
        at = change.place % (len(held) + 1)
        holder[place] = held[:at] + (change.value if isinstance(change.value, str) else "x") + held[at + 1 :]
    elif isinstance(held, list):
        held.reverse()


def _fit(_places: Any, holder: Any, place: Any, change: Edit) -> None:
    """Another value of the kind that stands there."""
    held, which = holder[place], change.value if isinstance(change.value, int) else 0
    if isinstance(held, bool):
        holder[place] = not held
    elif isinstance(held, int):
        holder[place] = NUMBERS[which % len(NUMBERS)]
    elif isinstance(held, str):
        pool = TIMES if _TIME.fullmatch(held) else WORDS
        holder[place] = pool[which % len(pool)]


def _repeat(_places: Any, holder: Any, place: Any, _change: Edit) -> None:
    held = holder[place]
    if isinstance(held, list):
        held *= 2
    elif isinstance(held, str):
        holder[place] = held * 40


_CHANGES: dict[str, Callable[[Any, Any, Any, Edit], None]] = {
    "replace": _replace,
    "delete": _delete,
    "add": _add,
    "rename": _rename,
    "swap": _swap,
    "nudge": _nudge,
    "repeat": _repeat,
    "fit": _fit,
}


def as_json(document: Any, *, canonical: bool = False) -> bytes:
    """Written down, whatever it holds: NaN, half surrogates, numbers of any length (which `json` cannot all read)."""
    separators = (",", ":") if canonical else None
    try:
        return json.dumps(document, sort_keys=canonical, separators=separators).encode()
    except (ValueError, TypeError, RecursionError):  # a number of too many digits
        return b"9" * 5000


# --- bytes


class Cut(NamedTuple):
    """One change to bytes: at a share of their length, in so many thousandths."""

    kind: str
    at: int
    with_: bytes


_TOKENS = (
    b"", b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b'"', b"\\ud800", b"{", b"}", b"[[[[",
    b"NaN", b"9" * 5000, b"0x" + b"f" * 4000, b"1e999", b"= ", b"[[", b"\x00" * 64, b"-----BEGIN", b"-> X25519 ",
    b"\n--- ",
)  # fmt: skip
cuts: SearchStrategy[list[Cut]] = st.lists(
    st.builds(
        Cut,
        st.sampled_from(("flip", "put", "over", "drop", "double", "end")),
        st.integers(0, 1000),
        st.sampled_from(_TOKENS) | st.binary(max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def cut(data: bytes, changes: Sequence[Cut]) -> bytes:
    """The bytes with the changes made."""
    for change in changes:
        at = len(data) * change.at // 1001
        data = _CUTS[change.kind](data, at, change.with_)
    return data


_CUTS: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "flip": lambda data, at, with_: (
        data[:at] + bytes(b ^ (1 << len(with_) % 8) for b in data[at : at + 1]) + data[at + 1 :]
    ),
    "put": lambda data, at, with_: data[:at] + with_ + data[at:],
    "over": lambda data, at, with_: data[:at] + with_ + data[at + len(with_) :],
    "drop": lambda data, at, with_: data[:at] + data[at + 1 + len(with_) * 3 :],
    "double": lambda data, at, _: data[:at] + data[max(0, at - 40) : at] + data[at:],
    "end": lambda data, at, with_: data[:at] + with_,
}
