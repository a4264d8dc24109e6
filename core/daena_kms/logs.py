"""Log records as JSON, one line each, for platforms that keep a message and lose what lies beside it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def line(record: logging.LogRecord) -> str:
    """A record's message, level, logger and the fields that were given as `extra`. No traceback: it may hold values."""
    extra = {name: value for name, value in vars(record).items() if name not in _OWN}
    told = {"message": record.getMessage(), "level": record.levelname, "logger": record.name, **extra}
    return json.dumps(told, default=str)


class Relay(logging.Handler):
    """Hands every record on as such a line, to the logger that the platform listens to."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record on."""
        self._target.log(record.levelno, "%s", line(record))


def relay(source: str, target: logging.Logger) -> logging.Logger:
    """From now on what is logged under `source` comes out of `target`, as JSON; the logger to log with."""
    logger = logging.getLogger(source)
    logger.handlers, logger.propagate = [Relay(target)], False
    logger.setLevel(logging.INFO)
    return logger


def pieces(document: dict[str, Any], longest: int) -> Iterator[dict[str, Any]]:
    """A document in parts that each fit into a line of so many characters: its lists go on from one to the next."""
    lists = {name: held for name, held in document.items() if isinstance(held, list | tuple)}
    piece: dict[str, Any] = document | {name: [] for name in lists}
    size = len(json.dumps(piece))
    for name, item in ((name, _fitting(item, longest)) for name, held in lists.items() for item in held):
        length = len(json.dumps({name: [item]}))
        if size + length > longest:
            yield piece
            piece, size = {}, 0
        piece.setdefault(name, []).append(item)
        size += length
    yield piece


def _fitting(item: Any, longest: int) -> Any:
    """The item; or how it begins, if it alone is longer than a line."""
    text = json.dumps(item)
    # As a text in JSON it may become twice as long.
    return item if len(text) < longest // 2 else {"begins": text[: longest // 5]}
