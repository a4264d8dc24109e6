"""What a key asks of AWS: the calls of each thing that is done to it, counted at the wire, and what they cost."""

from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from daena_kms import app
from daena_kms.fleet import Order
from daena_kms.settings import read_settings
from daena_kms.stores.aws_layout import KEPT_VERSIONS

from ..support.aws_world import REGION
from .aws_peer import PEER, Peer
from .aws_scene import Account, AwsScene
from .clouds import Calls, dollars, per_key, text
from .figures import Figure, Scale, compared
from .scene import POLICY, names

CALLS = "7. calls to AWS per key"
PRICE = "8. price of these calls"
# Of us-east-1, from AWS's pricing pages of Secrets Manager, KMS (symmetric) and S3 (Standard) as third parties quoted
# them in June 2026; not looked up live.
PRICES = (
    "list prices of June 2026: Secrets Manager 0.05 USD per 10,000 calls, KMS 0.03 per 10,000, S3 PUT and LIST 0.005"
    " per 1,000, GET 0.0004 per 1,000. Not in it: 0.40 USD a month for a secret, an archive being one too; Lambda"
)
DOLLARS = {
    "secrets-manager": 0.05 / 10_000,
    "kms": 0.03 / 10_000,
    "s3.GetObject": 0.0004 / 1_000,
    "s3.PutObject": 0.005 / 1_000,
    "s3.ListObjectsV2": 0.005 / 1_000,
}
LISTING = "secrets-manager.ListSecrets"
PAGE = 100
TICKS_A_YEAR = 24 * 365
KEPT = 2
LISTED = 2 * PAGE + PAGE // 2


def measure(account: Account, scale: Scale) -> tuple[list[Figure], list[str]]:
    """The figures, and the calls of each thing by name."""
    keys = names(scale.aws_counted_keys)
    peer = Peer(account, keys)
    with account.counting() as theirs:
        peer.rotate()
    template = per_key(theirs, keys, {LISTING})
    counted = {**_ordinary(account, keys), **_retiring(account, keys)}
    due = counted["rotation"]
    figures = [_figure(name, calls, template, PEER, "<= 9" if calls is due else "") for name, calls in counted.items()]
    pages, opened = _listing(account), _opening(account)
    pages_needed = Counter({LISTING: -(-LISTED // PAGE)})
    figures.append(_figure(f"a tick's listing, {LISTED} keys", pages, pages_needed, f"a page for {PAGE} keys"))
    figures.append(_figure("opening, once a cold start", opened, due, "a rotation of ours"))
    every = {f"{PEER}, in four invocations": template, **counted, "opening": opened}
    notes = [f"Calls of {name}: {text(calls)}." for name, calls in every.items()]
    return figures + _prices(due, template), [*notes, f"Prices: {PRICES}."]


def _ordinary(account: Account, keys: list[str]) -> dict[str, Calls]:
    """From a key's first version to those that no longer fit into one secret."""
    scene = AwsScene(account, "count-", dict.fromkeys(keys, POLICY))
    forced = Order(tuple(keys), force=True, request="bench")
    creation = _counted(account, keys, scene.create)
    counted = {"rotation": _counted(account, keys, scene.rotate), "first creation": creation}
    counted["rotation, forced, of version 2"] = _counted(account, keys, lambda: scene.rotate(order=forced))
    for _ in range(3, KEPT_VERSIONS):
        scene.rotate()
    counted[f"rotation, of version {KEPT_VERSIONS}: an archive begun"] = _counted(account, keys, scene.rotate)
    counted[f"rotation, of version {KEPT_VERSIONS + 1}: archived"] = _counted(account, keys, scene.rotate)
    return counted


def _retiring(account: Account, keys: list[str]) -> dict[str, Calls]:
    """Under a policy that keeps few versions, each rotation also disables one."""
    scene = AwsScene(account, "retire-", dict.fromkeys(keys, replace(POLICY, keep_versions=KEPT)))
    scene.create()
    counted = {}
    for number in range(1, 9):
        calls = _counted(account, keys, scene.rotate)
        if number in (4, 8):
            counted[f"rotation, of version {number}, and a retirement"] = calls
    return counted


def _listing(account: Account) -> Calls:
    """What a tick sends that finds nothing due."""
    scene = AwsScene(account, "listed-", {})
    for name in names(LISTED):
        account.aws.client("secretsmanager").call("create_secret", name, Name=scene.prefix + name, SecretString="-")
    with account.counting() as seen:
        scene.service().rotate(Order())
    return seen


def _opening(account: Account) -> Calls:
    """What a new process sends before it can do anything."""
    scene = AwsScene(account, "opened-", {})
    settings = read_settings(
        {
            "AWS_REGION": REGION,
            "AWS_KMS_KEY_ID": account.key,
            "DAENA_CLOUD_KMS_PROVIDER": "aws",
            "DAENA_KEY_PREFIX": scene.prefix,
            "DAENA_MANIFEST_URL": scene.ledger.address,
            "DAENA_PUBLIC_KEY": scene.keyring.trust.generations[0].public_key.hex(),
        }
    )
    clouds = app.Clouds(settings)
    vars(clouds)["aws"] = account.aws  # whose calls are counted
    with account.counting() as seen:
        app.connect(settings, trigger="bench", writes=False, makes=True, clouds=clouds)
    return seen


def _counted(account: Account, keys: list[str], work: Callable[[], object]) -> Calls:
    with account.counting() as seen:
        work()
    return per_key(seen, keys, {LISTING})


def _figure(name: str, ours: Calls, peer: Calls, peer_is: str, aim: str = "") -> Figure:
    return compared(CALLS, name, [ours.total()], "calls", [peer.total()], peer_is, aim)


def _prices(due: Calls, template: Calls) -> list[Figure]:
    """Of a rotation, and of a key in a year of hourly ticks that list it with 99 others."""
    rotations = 365 / POLICY.rotate_after_days
    listing = TICKS_A_YEAR / PAGE * DOLLARS["secrets-manager"]
    ours, theirs = dollars(due, DOLLARS), dollars(template, DOLLARS)
    year = f"rotated every {POLICY.rotate_after_days} days"
    unit = "USD/1,000 keys/year"
    return [
        compared(PRICE, "rotation", [ours * 1e6], "USD/million", [theirs * 1e6], PEER),
        compared(PRICE, year, [rotations * ours * 1e3], unit, [rotations * theirs * 1e3], PEER),
        compared(PRICE, "hourly listing", [listing * 1e3], unit, [rotations * ours * 1e3], "the rotations"),
    ]
