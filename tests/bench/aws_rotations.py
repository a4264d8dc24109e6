"""Rotations per second on AWS's double, through the real store and ledger, beside AWS's own rotation template.

The double is one process, whoever rotates is another; both sides do so in turns, with clients of the same
configuration. What is compared is calls and the client's work: the double answers as fast as one Python process can,
and on the network of a cloud each call takes longer.
"""

from . import aws_calls
from .aws_peer import PEER, Peer
from .aws_scene import Account, AwsScene, account
from .clouds import CONCURRENCY, Side
from .figures import Figure, Scale, compared
from .scene import POLICY, names

GROUP = "9. rotations on AWS's double, every key due"


class Rounds:
    """Both sides at one concurrency, each with keys of its own."""

    def __init__(self, account: Account, concurrency: int, keys: int) -> None:
        self._account, self._concurrency, self._keys = account, concurrency, keys
        scene = AwsScene(account, f"at-{concurrency}-", dict.fromkeys(names(keys), POLICY))
        scene.create(max(CONCURRENCY))
        peer = Peer(account, [f"at-{concurrency}-{name}" for name in names(keys)])
        self.ours = Side(lambda: scene.rotate(concurrency))
        self.theirs = Side(lambda: peer.rotate(concurrency))
        scene.rotate(concurrency)  # warm both
        peer.rotate(concurrency)

    def take(self) -> None:
        """One round; who goes first changes."""
        sides = (self.ours, self.theirs) if len(self.ours.rates) % 2 else (self.theirs, self.ours)
        for side in sides:
            side.take(self._account, self._keys)

    def figures(self) -> list[Figure]:
        """Rotations, calls, processor time."""
        name, ours, theirs = f"concurrency {self._concurrency}", self.ours, self.theirs
        return [
            compared(GROUP, name, ours.rates, "rotations/s", theirs.rates, PEER, "ratio >= 0.9"),
            compared(GROUP, f"{name}: calls", ours.calls, "calls/s", theirs.calls, PEER),
            compared(GROUP, f"{name}: client's processor", ours.processor, "ms/rotation", theirs.processor, PEER),
        ]


def measure(scale: Scale) -> tuple[list[Figure], list[str]]:
    """The figures, and what has to be said about them."""
    with account() as made:
        figures, notes = aws_calls.measure(made, scale)
        rounds = [Rounds(made, concurrency, scale.aws_keys) for concurrency in CONCURRENCY]
        for _ in range(scale.aws_rounds):
            for each in rounds:
                each.take()
    return figures + [figure for each in rounds for figure in each.figures()], notes
