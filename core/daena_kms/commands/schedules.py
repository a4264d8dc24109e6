"""The command `schedules`: how far apart ticks are, and what that does to the keys of the policy."""

import click

from .. import app, console, cron
from .. import schedules as advice
from ..settings import read_settings
from .base import cli, json_option


@cli.command("schedules")
@click.argument("expression", required=False)
@click.option("--dialect", type=click.Choice(cron.DIALECTS), default=None, help="Whose expression it is.")
@json_option
def schedules(*, expression: str | None, dialect: str | None, as_json: bool) -> None:
    """Show a schedule's longest gap, and how old each key of the policy gets under it.

    Takes the expressions of cron, EventBridge, Azure Functions and Cloud Scheduler. Without one: the tick that
    DAENA_TICK_MINUTES says. It is advice: whatever it warns of, the exit status is 0.

    \b
    Examples:
      daena-key-rotate schedules
      daena-key-rotate schedules "0 0 1 */3 *"
      daena-key-rotate schedules "cron(0 0 1 */3 ? *)" --json
      daena-key-rotate schedules "rate(12 hours)"
      daena-key-rotate schedules "0 0 1 */3 *" --dialect gcp
    """
    if dialect and expression is None:
        raise click.UsageError("--dialect goes with an expression")
    settings = read_settings()
    tick = settings.ticks
    schedule = (
        cron.Schedule("", "", every=tick.interval) if expression is None else cron.read(expression, dialect or "")
    )
    told = advice.advise(schedule, app.load_policy(settings).keys, tick, app.utc_now())
    console.schedule(told, as_json=as_json)
