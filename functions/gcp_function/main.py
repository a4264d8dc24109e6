"""The Cloud Run function's entry point: a request of Cloud Scheduler or by hand, a report out. No rule is in here.

POST `{"action": "rotate" | "plan" | "status" | "verify", …}` (`events/` has examples). Cloud Run lets in only who may
invoke it, and how long a run may take is in DAENA_TIME_BUDGET_SECONDS: infra/gcp sets both. Whatever was opened is kept
while the instance is warm, and dropped after a failure.
"""

import gc

gc.disable()  # until there is a connection: what is imported and made before is kept, looking for garbage costs a tenth

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import flask
import functions_framework
import msgspec
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from daena_kms import invocation, logs
from daena_kms.errors import ConfigurationError, KmsError
from daena_kms.invocation import Answer, Invocation
from daena_kms.warm import Warm

SCHEDULER, BY_HAND = "gcp.scheduler", "gcp.http"
# Headers by which Cloud Scheduler names itself. None is the same for all deliveries of one tick and for no other.
SCHEDULER_FIELDS = {"job": "X-CloudScheduler-JobName", "schedule_time": "X-CloudScheduler-ScheduleTime"}
LARGEST_BODY, LONGEST_FIELD, LONGEST_TRACEBACK = 64 * 1024, 200, 20
# Cloud Logging takes at most 256 KB in an entry (Google: "Cloud Logging quotas and limits").
LONGEST_PIECE, LONGEST_MESSAGE, LONGEST_HINT = 100_000, 20_000, 1_000
_TRACES = (
    ("traceparent", re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")),
    ("X-Cloud-Trace-Context", re.compile(r"([0-9a-f]{32})(?:/[0-9]{1,20})?(?:;o=[0-9])?")),
)


class _Lines(logging.Formatter):
    """One object of JSON a line, with what Cloud Logging takes out of it (Google: "Structured logging")."""

    trace: Mapping[str, str] = {}
    """Of the request that came last. An instance has one at a time, and the library logs from threads of its own."""

    def format(self, record: logging.LogRecord) -> str:
        vars(record).update(severity=record.levelname, **self.trace)
        return logs.line(record)


_lines, _stdout = _Lines(), logging.StreamHandler(sys.stdout)
_stdout.setFormatter(_lines)
logger = logging.getLogger("daena_kms")
logger.handlers, logger.propagate = [_stdout], False
logger.setLevel(logging.INFO)
_warm = Warm()


@functions_framework.http
def run(request: flask.Request) -> flask.Response:
    """Carry out one request: 200 with the report, 400 or 413 for a bad one, 500 if a key failed or nothing was begun.

    Cloud Scheduler delivers again what did not come to 200.
    """
    _lines.trace = _trace(request.headers)
    if request.method != "POST":
        return _refused(405, KmsError(f"POST expected, got {request.method}", "see functions/gcp_function/events"))
    trigger = SCHEDULER if request.headers.get("X-CloudScheduler") == "true" else BY_HAND
    if trigger == SCHEDULER:
        told = {field: request.headers.get(name, "")[:LONGEST_FIELD] for field, name in SCHEDULER_FIELDS.items()}
        logger.info("tick", extra=told)
    try:
        asked = _parsed(request)
    except ConfigurationError as problem:
        return _refused(400, problem)
    except RequestEntityTooLarge:
        return _refused(413, KmsError(f"the request has more than {LARGEST_BODY} bytes", "name fewer keys"))
    came = _tried(trigger, asked)
    _tell(trigger, came)
    if isinstance(came, KmsError):
        return _response(500, {"error": came.message, "hint": came.hint})
    document = came.document | ({"failures": list(came.failures)} if came.failures else {})
    return _response(500 if came.failures else 200, document)


def _body(request: flask.Request) -> bytes:
    request.max_content_length = LARGEST_BODY + 1  # of chunks werkzeug takes so much, and says nothing of the rest
    try:
        body = request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception:  # noqa: BLE001  # the server's, of a body that ends too soon or whose chunks are none
        raise ConfigurationError("the request broke off", "send it again; nothing was changed") from None
    if len(body) > LARGEST_BODY:
        raise RequestEntityTooLarge
    return body


def _parsed(request: flask.Request) -> Invocation:
    try:
        decoded = msgspec.json.decode(_body(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError("the request is no JSON", "see functions/gcp_function/events") from None
    asked = invocation.parse(decoded)
    if asked.force and not (asked.request_id or asked.dry_run):
        hint = "any text of your own, such as a ticket's number: sent again with it, the key is rotated once"
        raise ConfigurationError("'force' without 'request_id'", f"{hint}; nothing was changed")
    return asked


def _tried(trigger: str, asked: Invocation) -> Answer | KmsError:
    """One run: its answer, or why nothing could be begun."""
    try:
        return _warm.perform(trigger, asked)
    except KmsError as problem:
        return problem
    except Exception as bug:  # noqa: BLE001  # the framework would log a traceback and reply with its last line
        frames = traceback.extract_tb(bug.__traceback__)[-LONGEST_TRACEBACK:]
        where = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        logger.error("bug", extra={"where": where})  # noqa: TRY400  # the text of an error may hold values
        return KmsError(f"the run broke off ({type(bug).__name__})", "this is a bug: please report it with the log")


# --- the log. Alerts and metrics of infra/gcp look for these lines.


def _tell(trigger: str, came: Answer | KmsError) -> None:
    """What came of a run."""
    if isinstance(came, KmsError):
        # Without a traceback: what is wrong and what to do are in the message and the hint.
        told = {"hint": came.hint[:LONGEST_HINT], "kind": type(came).__name__, "trigger": trigger}
        logger.error("%s", came.message[:LONGEST_MESSAGE], extra=told)
        return
    figures = {} if came.report is None else {"metrics": invocation.metrics(came.report)}
    level, word = (logging.ERROR, "failed") if came.failures else (logging.INFO, "done")
    logger.log(level, word, extra={"trigger": trigger, **figures})
    for piece in logs.pieces(came.document, LONGEST_PIECE):
        logger.info("report", extra={"report": piece})


def _trace(headers: Headers) -> dict[str, str]:
    """By what Cloud Logging shows a request's lines together."""
    project = os.environ.get("GCP_PROJECT_ID")
    for name, shape in _TRACES:
        if project and (found := shape.fullmatch(headers.get(name, ""))):
            return {"logging.googleapis.com/trace": f"projects/{project}/traces/{found[1]}"}
    return {}


# --- replies


def _refused(status: int, problem: KmsError) -> flask.Response:
    logger.warning("%s", problem.message[:LONGEST_MESSAGE], extra={"hint": problem.hint, "status": status})
    return _response(status, {"error": problem.message, "hint": problem.hint})


def _response(status: int, document: dict[str, Any]) -> flask.Response:
    content = json.dumps(document).encode()
    headers = {"Content-Length": str(len(content))} | ({"Allow": "POST"} if status == 405 else {})
    # A stream: before any other answer the framework reads the rest of the request, however much there is.
    return flask.Response(iter([content]), status, headers, mimetype="application/json")
