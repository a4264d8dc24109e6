"""The AWS Lambda entry point: an event in, a report out, a raised error when a key failed. No rule is in here.

Events: the scheduler's, or `{"action": "rotate" | "plan" | "status" | "verify", …}` by hand (`events/` has examples).
Whatever was opened is kept while the function is warm, and dropped after a failure.
"""

import gc

gc.disable()  # until there is a connection: what is imported and made before is kept, and looking for garbage costs 5 %

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from daena_kms import invocation
from daena_kms.errors import ConfigurationError, KmsError
from daena_kms.invocation import Answer, Invocation
from daena_kms.warm import Warm

SCHEDULER = "aws.scheduler"
SCHEDULER_FIELDS = {"source", "scheduled_time", "execution_id", "attempt"}
LONGEST_TICK_FIELD = 200
BY_HAND = "aws.lambda"
_UNITS = {"Duration": MetricUnit.Seconds}

SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "daena-kms")
logger = Logger(service=SERVICE)
metrics = Metrics(service=SERVICE, namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "DaenaKms"))
_warm = Warm()

_library = logging.getLogger("daena_kms")
_library.handlers, _library.propagate = [*logger.handlers], False
_library.setLevel(logger.log_level)


def lambda_handler(event: object, context: Any) -> dict[str, Any]:
    """Carry out one event. Raises RunFailedError if a key failed, the children of KmsError if nothing was begun."""
    logger.append_keys(function_request_id=context.aws_request_id)
    try:
        trigger, asked = translate(event, context.aws_request_id)
        answer = _warm.perform(trigger, asked, seconds=context.get_remaining_time_in_millis() / 1000)
    except KmsError as problem:
        # Without a traceback: what is wrong and what to do are in the message and the hint.
        logger.error(problem.message, hint=problem.hint, kind=type(problem).__name__)  # noqa: TRY400
        raise type(problem)(problem.line, problem.hint) from None
    _tell(answer)
    if answer.failures:
        raise invocation.failed(answer)
    return answer.document


def translate(event: object, request_id: str) -> tuple[str, Invocation]:
    """Who asks, and for what. Lambda's request id is the same for each try of one event."""
    if isinstance(event, Mapping) and event.get("source") == SCHEDULER:
        for name, value in event.items():
            if name not in SCHEDULER_FIELDS or not isinstance(value, str) or len(value) > LONGEST_TICK_FIELD:
                wrong = f"the scheduler's event has a field that is not its own: {str(name)[:40]!r}"
                raise ConfigurationError(wrong, "see infra/aws/template.yaml; nothing was changed")
        logger.info("tick", scheduled_time=event.get("scheduled_time"), attempt=event.get("attempt"))
        return SCHEDULER, Invocation()
    return BY_HAND, invocation.parse(event, request_id)


def _tell(answer: Answer) -> None:
    """The report into the log, its figures into the metrics."""
    if answer.failures:
        logger.error("failed", report=answer.document)
    else:
        logger.info("done", report=answer.document)
    if answer.report is not None:
        for name, value in invocation.metrics(answer.report).items():
            metrics.add_metric(name=name, unit=_UNITS.get(name, MetricUnit.Count), value=value)
        metrics.flush_metrics()


if importlib.util.find_spec("aws_xray_sdk") is not None:  # a layer brings it, where traces are wanted
    from aws_lambda_powertools import Tracer

    lambda_handler = Tracer().capture_lambda_handler(lambda_handler, capture_response=False)
