"""The command `cost`: what a policy costs in each store."""

from importlib.resources import files

import click

from .. import app, console, cost
from ..names import PROVIDERS
from ..settings import read_settings
from .base import cli, json_option

_STORES = [*PROVIDERS, "all"]


@cli.command("cost")
@click.option(
    "--provider", type=click.Choice(_STORES), default="all", show_default=True, help="Which store to reckon for."
)
@click.option(
    "--reads",
    type=click.IntRange(0, 10**9),
    default=0,
    show_default=True,
    metavar="N",
    help="How often applications read each key, per month.",
)
@click.option(
    "--years",
    type=click.IntRange(1, 50),
    default=1,
    show_default=True,
    metavar="N",
    help="How much later the second bill is.",
)
@json_option
def estimate(*, provider: str, reads: int, years: int, as_json: bool) -> None:
    """Estimate the monthly bill per store from the policy and a dated list of prices. Asks no cloud.

    \b
    Examples:
      daena-key-rotate cost
      daena-key-rotate cost --provider aws --reads 50000 --years 5
    """
    settings = read_settings()
    keys = tuple(app.load_policy(settings).keys.values())
    asked = cost.Asked(keys, settings.tick, reads, years, max(1, len(settings.gcp_locations)))
    prices = cost.parse_prices((files("daena_kms") / "prices.toml").read_bytes())
    providers = PROVIDERS if provider == "all" else (provider,)
    console.cost(cost.estimate(asked, prices, providers), as_json=as_json)
