"""What a cloud function does with an invocation, and what it keeps until the next one: its connection."""

import gc
import logging

from . import app, dumps, invocation
from .invocation import Answer, Invocation
from .settings import Settings, read_settings

log = logging.getLogger(__name__)

# New keys are begun while this many times the longest call is left: enough to end what was begun.
RESERVED_CALLS = 2


class Warm:
    """Performs invocations one after another, on one connection while all is well."""

    def __init__(self) -> None:
        dumps.forbid()
        self._connection: app.Connection | None = None

    def perform(self, trigger: str, asked: Invocation, *, seconds: float | None = None) -> Answer:
        """Carry out what was asked for, in the name of `trigger`; `seconds` is how long the platform lets it run.

        Raises the children of KmsError where nothing could be begun. Settings and policy are read anew each time.
        """
        settings = read_settings()
        try:
            clouds = self._connection.clouds if self._connection else app.Clouds(settings)
            policy = app.load_policy(settings, clouds)
            connection = self._connection = self._connection or _connect(settings, clouds, trigger, asked)
            budget = budget_seconds(settings, seconds)
            service = app.serve(connection, settings, policy, trigger=trigger, budget_seconds=budget)
            answer = invocation.perform(service, asked)
        except BaseException:
            self._connection = None
            raise
        if answer.failures:
            self._connection = None
        return answer


def _connect(settings: Settings, clouds: app.Clouds, trigger: str, asked: Invocation) -> app.Connection:
    makes = asked.action == "rotate" and not asked.dry_run
    try:
        connection = app.connect(settings, trigger=trigger, writes=False, makes=makes, clouds=clouds)
    finally:
        gc.freeze()
        gc.enable()  # an entry point may have turned it off for its imports
    if connection.initialised is not None:
        log.warning("made new manifests: pin their public key", extra={"public_key": connection.initialised.public_key})
    return connection


def budget_seconds(settings: Settings, seconds: float | None) -> float | None:
    """For how many seconds new keys may be begun; None for no limit."""
    limits = [float(settings.budget_seconds)] if settings.budget_seconds else []
    if seconds is not None:
        limits.append(max(0.0, seconds - RESERVED_CALLS * settings.call_timeout.total_seconds()))
    return min(limits, default=None)
