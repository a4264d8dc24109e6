"""The Azure Functions entry point: a timer's tick and a request by hand, each a report out. No rule is in here.

By hand: POST to /api/run with the function's key, `{"action": "rotate" | "plan" | "status" | "verify", …}` (`events/`
has examples). Whatever was opened is kept while the app is warm, and dropped after a failure.
"""

import json
import logging
import time
from typing import Any

import azure.functions as func
import msgspec

from daena_kms import invocation, logs
from daena_kms.errors import ConfigurationError, KmsError
from daena_kms.invocation import Answer, Invocation
from daena_kms.settings import read_settings
from daena_kms.warm import Warm

TIMER = "azure.timer"
BY_HAND = "azure.http"
# The platform does not try a tick again before the next one. Each try is an ordinary run: nothing happens twice.
PAUSES_SECONDS = (10.0, 60.0)
# Azure's front end gives up on a request after 230 seconds, whatever the function does.
HTTP_SECONDS = 200.0
LARGEST_BODY = 64 * 1024
_MALFORMED, _TOO_LARGE, _FAILED = 400, 413, 500

app = func.FunctionApp()
logger = logs.relay("daena_kms", logging.getLogger("daena-kms"))
_warm = Warm()


@app.function_name("tick")
@app.timer_trigger("timer", "%ROTATION_SCHEDULE%", run_on_startup=False, use_monitor=True)
def tick(timer: func.TimerRequest) -> None:
    """Rotate what is due. Raises RunFailedError if a key failed at the last try, so that the alarms fire."""
    if timer.past_due:
        logger.warning("this tick comes late: the app was not running")
    started = time.monotonic()
    for pause in PAUSES_SECONDS:
        try:
            return _succeeded(_performed(TIMER, Invocation()))
        except KmsError as problem:
            _told(problem)
            if not _fits(pause, time.monotonic() - started):
                raise
            time.sleep(pause)
    return _succeeded(_performed(TIMER, Invocation()))


@app.function_name("run")
@app.route("run", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def run(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Carry out one request: 200 with the report, 400 for a malformed one, 500 if a key failed or nothing was begun."""
    try:
        asked = _parsed(req.get_body(), context.invocation_id)
    except ConfigurationError as problem:
        return _refused(_MALFORMED, problem)
    except OverflowError:
        return _refused(_TOO_LARGE, KmsError(f"the request has more than {LARGEST_BODY} bytes", "name fewer keys"))
    try:
        answer = _performed(BY_HAND, asked, HTTP_SECONDS)
    except KmsError as problem:
        _told(problem)
        return _refused(_FAILED, problem)
    document = answer.document | ({"failures": list(answer.failures)} if answer.failures else {})
    return _response(_FAILED if answer.failures else 200, document)


def _parsed(body: bytes, request_id: str) -> Invocation:
    if len(body) > LARGEST_BODY:
        raise OverflowError
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError("the request is no JSON", "see functions/azure_function/events") from None
    return invocation.parse(decoded, request_id)


def _performed(trigger: str, asked: Invocation, seconds: float | None = None) -> Answer:
    answer = _warm.perform(trigger, asked, seconds=seconds)
    _tell(answer)
    return answer


def _fits(pause: float, spent: float) -> bool:
    """True if the tick has time for one more try."""
    try:
        budget = read_settings().budget_seconds
    except ConfigurationError:
        return False  # another try would find the same
    return not budget or spent + pause < budget


def _succeeded(answer: Answer) -> None:
    if answer.failures:
        raise invocation.failed(answer)


def _tell(answer: Answer) -> None:
    """The report into the log, its figures beside it: alarms look for them."""
    told: dict[str, Any] = {"report": answer.document}
    if answer.report is not None:
        told["metrics"] = invocation.metrics(answer.report)
    logger.log(*((logging.ERROR, "failed") if answer.failures else (logging.INFO, "done")), extra=told)


def _told(problem: KmsError) -> None:
    # Without a traceback: what is wrong and what to do are in the message and the hint.
    logger.error(problem.message, extra={"hint": problem.hint, "kind": type(problem).__name__})


def _refused(status: int, problem: KmsError) -> func.HttpResponse:
    return _response(status, {"error": problem.message, "hint": problem.hint})


def _response(status: int, document: dict[str, Any]) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(document), status_code=status, mimetype="application/json")
