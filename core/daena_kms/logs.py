"""Log records as JSON, one line each, for platforms that keep a message and lose what lies beside it."""

import json
import logging

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
