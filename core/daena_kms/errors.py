"""Every error that leaves this library: what failed, expected against got, and what to do about it.

Stores and ledgers translate what their SDK raises into these, once; nothing provider-shaped escapes them.
The children are told apart because what a caller may do differs: a `ThrottledError` or an `UnavailableError`
may be tried again later, a `ConflictError` means look again, the rest wait for a person.
"""

DAMAGED_HINT = "a backup has it: docs/backup-format.md says how to get one version out; `restore` brings the whole key"


LONGEST_MESSAGE = 16_000
"""In characters; of hints too. They quote what lies in stores and files, of any length; logs have to hold them."""


class KmsError(Exception):
    """Something failed. `message` says what, `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _shortened(message)
        self.hint = _shortened(hint)
        super().__init__(self.message)

    @property
    def line(self) -> str:
        """Message and hint in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type["KmsError"], tuple[str, str]]:
        return type(self), (self.message, self.hint)


def _shortened(text: str) -> str:
    """As it is, up to LONGEST_MESSAGE; of a longer one the beginning."""
    if len(text) <= LONGEST_MESSAGE:
        return text
    rest = f"… ({len(text):,} characters in all)"
    return text[: LONGEST_MESSAGE - len(rest)] + rest


class DeniedError(KmsError):
    """The credentials in use lack a permission."""


class NotFoundError(KmsError):
    """A key, version or entry that should be there is not."""


class ExistsError(KmsError):
    """Something that must be new is there already."""


class ThrottledError(KmsError):
    """The store asked us to slow down, and went on asking after the SDK's own retries."""


class UnavailableError(KmsError):
    """The store or the ledger could not be reached, or could not do its work (a full disk, a time-out)."""


class ConflictError(KmsError):
    """The world moved on between looking and acting: look again."""


class IntegrityError(KmsError):
    """Something is not what was written: a bad signature, a broken chain, another key's material."""


class ConfigurationError(KmsError):
    """Settings, a policy file or a folder that cannot be used as it is. Nothing was changed."""


class RefusedError(KmsError):
    """A request that would lose or expose something, or that makes no sense for this key. Nothing was changed."""
