"""A backup that is killed leaves a whole file or none; a restore that is killed is brought to its end."""

from pathlib import Path

from daena_kms.commands.backup import open_backup
from daena_kms.settings import read_settings
from tests.support.backups import Identity

from . import checks
from .killing import Ran, Runner
from .scene import Place, Scene, canary, require


class Safe:
    """Where backups lie, and who can open them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "safe"
        self.folder.mkdir()
        (folder / "person").mkdir()
        self.identity = Identity(folder / "person")

    def file(self, source: Place) -> Path:
        """The backup of a place."""
        return self.folder / f"{source.name}.age"


def backed_up(runner: Runner, safe: Safe, source: Place, kills: int) -> str:
    """Back everything up, then again and again, each time killed: what lies in the file's place is whole, or nothing.

    The one that nobody kills is held against the store, both ways.
    """
    file = safe.file(source)
    done = run_backup(runner, safe, source, file)
    require(done.status == 0, f"backup ended with {done.status}: {done.told}")
    check_whole(runner.scene, safe, source, file)
    for number in range(kills):
        other = file.with_suffix(f".{number}.age")
        ran = run_backup(runner, safe, source, other, runner.chance.uniform(0.3 * done.seconds, done.seconds))
        require(ran.killed or ran.status == 0, f"backup ended with {ran.status}: {ran.told}")
        require(ran.killed or other.exists(), "no backup came of it")
        if other.exists():
            check_whole(runner.scene, safe, source, other)
    checks.agrees(runner, source, "--backup", str(file), "--identity", str(safe.identity.file))
    return f"{file.stat().st_size:,} bytes, in {done.seconds:.1f} s"


def run_backup(runner: Runner, safe: Safe, source: Place, file: Path, seconds: float | None = None) -> Ran:
    """One run of `backup`."""
    wanted: list[str | Path] = ["backup", "--to", file, "--recipient", safe.identity.recipient]
    return runner.run(wanted, source.settings, seconds=seconds, logs=False)


def check_whole(scene: Scene, safe: Safe, source: Place, file: Path) -> None:
    """It opens, and holds what was made."""
    with source.opened(scene.now) as service:
        public_key = service.keyring.trust.generations[0].public_key.hex()
    read = open_backup(file, (safe.identity.file,), read_settings(source.settings), public_key)
    found = {
        (each.holding.key, version.record.number): version.material.reveal()
        for each in read.keys
        for version in each.holding.versions
        if version.material is not None
    }
    expected = {(key, n): canary(key, n) for key in scene.keys for n in range(1, scene.versions + 1)}
    for key in scene.disabled():
        del expected[key, 1]
    require(found == expected, f"the backup of {source.name} does not hold what was made")


def restored(runner: Runner, safe: Safe, source: Place, target: Place, kills: int) -> None:
    """Restore everything into an empty place, killed so often, and hold it against the backup."""
    wanted: list[str | Path] = ["restore", safe.file(source), "--identity", safe.identity.file]
    runner.to_its_end(f"restore {target.provider}", wanted, target.settings, kills=kills)
    check_restored(runner, safe, source, target)


def check_restored(runner: Runner, safe: Safe, source: Place, target: Place) -> None:
    """Everything that a backup has came there, and nothing else did."""
    checks.all_arrived(runner.scene, target, without_disabled=True)
    checks.sound(runner.scene, target)
    checks.agrees(runner, target, "--backup", str(safe.file(source)), "--identity", str(safe.identity.file))
