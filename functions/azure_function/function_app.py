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
# host.json gives a run 30 minutes, all tries together.
TICK_SECONDS = 29 * 60.0
# Azure's front end gives up on a request after 230 seconds, whatever the function does.
HTTP_SECONDS = 200.0
LARGEST_BODY = 64 * 1024
# Application Insights cuts a message at 32,768 characters (Azure documentation: "Application Insights limits"); what is
# cut is no JSON any more.
LONGEST_PIECE, LONGEST_MESSAGE, LONGEST_HINT = 30_000, 3_000, 1_000
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
    for pause in (*PAUSES_SECONDS, None):
        came = _tried(TIMER, Invocation(), TICK_SECONDS - (time.monotonic() - started))
        problem = _problem(came)
        again = pause if problem and _fits(pause, time.monotonic() - started) else None
        _tell(TIMER, came, again)
        if problem is None:
            return
        if again is None:
            raise problem
        time.sleep(again)


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
    came = _tried(BY_HAND, asked, HTTP_SECONDS)
    _tell(BY_HAND, came)
    if isinstance(came, KmsError):
        return _refused(_FAILED, came)
    document = came.document | ({"failures": list(came.failures)} if came.failures else {})
    return _response(_FAILED if came.failures else 200, document)


def _parsed(body: bytes, request_id: str) -> Invocation:
    if len(body) > LARGEST_BODY:
        raise OverflowError
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError("the request is no JSON", "see functions/azure_function/events") from None
    return invocation.parse(decoded, request_id)


def _tried(trigger: str, asked: Invocation, seconds: float) -> Answer | KmsError:
    """One run: its answer, or why nothing could be begun."""
    try:
        return _warm.perform(trigger, asked, seconds=seconds)
    except KmsError as problem:
        return problem


def _problem(came: Answer | KmsError) -> KmsError | None:
    if isinstance(came, KmsError):
        return came
    return invocation.failed(came) if came.failures else None


def _fits(pause: float | None, spent: float) -> bool:
    """True if the tick has time for one more try."""
    if pause is None:
        return False
    try:
        budget = read_settings().budget_seconds or TICK_SECONDS
    except ConfigurationError:
        return False  # another try would find the same
    return spent + pause < min(budget, TICK_SECONDS)


# --- the log. The alerts of infra/azure look for these lines; an error is only what no later try makes good.


def _tell(trigger: str, came: Answer | KmsError, again: float | None = None) -> None:
    """What came of a run. `again`: in so many seconds it is tried again."""
    well = _problem(came) is None
    level = logging.INFO if well else logging.ERROR if again is None else logging.WARNING
    beside: dict[str, Any] = {"trigger": trigger} | ({} if again is None else {"again_in_seconds": again})
    if isinstance(came, KmsError):
        # Without a traceback: what is wrong and what to do are in the message and the hint.
        told = {"hint": came.hint[:LONGEST_HINT], "kind": type(came).__name__}
        logger.log(level, "%s", came.message[:LONGEST_MESSAGE], extra=beside | told)
        return
    if came.report is not None:
        beside["metrics"] = invocation.metrics(came.report)
    logger.log(level, "done" if well else "failed", extra=beside)
    for piece in logs.pieces(came.document, LONGEST_PIECE):
        logger.info("report", extra={"report": piece})


# --- replies


def _refused(status: int, problem: KmsError) -> func.HttpResponse:
    return _response(status, {"error": problem.message, "hint": problem.hint})


def _response(status: int, document: dict[str, Any]) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(document), status_code=status, mimetype="application/json")
