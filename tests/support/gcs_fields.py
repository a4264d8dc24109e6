"""Partial responses: `fields=items(name,generation),nextPageToken`, as Google's JSON APIs take them."""

import re
from collections.abc import Mapping
from typing import Any

from .gcs_objects import GcsError

Tree = dict[str, "Tree"]
_WORD = re.compile(r"[A-Za-z0-9]+|\*")


def selected(document: Mapping[str, Any], fields: str) -> dict[str, Any]:
    """What of a document `fields` asks for. What is not there is left out; wrong grammar is refused."""
    tree, rest = _parsed(fields)
    if rest:
        raise _invalid(fields)
    return _cut(document, tree)


def _cut(document: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
    wanted = {name: tree[name] for name in tree if name != "*"}
    if "*" in tree:
        wanted = dict.fromkeys(document, tree["*"]) | wanted
    return {name: _inside(document[name], deeper) for name, deeper in wanted.items() if name in document}


def _inside(value: Any, tree: Tree) -> Any:
    if not tree:
        return value
    if isinstance(value, list):
        return [_inside(each, tree) for each in value]
    return _cut(value, tree) if isinstance(value, Mapping) else value


def _parsed(text: str) -> tuple[Tree, str]:
    """A list of fields, and what of the text follows it."""
    tree: Tree = {}
    while True:
        name, deeper, text = _field(text)
        tree[name] = deeper
        if not text.startswith(","):
            return tree, text
        text = text[1:]


def _field(text: str) -> tuple[str, Tree, str]:
    found = _WORD.match(text)
    if found is None:
        raise _invalid(text)
    name, rest = found[0], text[found.end() :]
    if rest.startswith("/"):
        inner, deeper, rest = _field(rest[1:])
        return name, {inner: deeper}, rest
    if rest.startswith("("):
        below, rest = _parsed(rest[1:])
        if not rest.startswith(")"):
            raise _invalid(text)
        return name, below, rest[1:]
    return name, {}, rest


def _invalid(text: str) -> GcsError:
    return GcsError(400, "invalidParameter", f"Invalid field selection {text}")
