"""Which names a key may have: one rule for every store, so that a key can move to any of them later."""

import re

from .errors import ConfigurationError

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_PREFIX = re.compile(r"(?:[a-z0-9]+-)*[a-z0-9]*")

PROVIDERS = ("local", "aws", "azure", "gcp")

# `--` never occurs in a user's key name: everything with it is ours (staged copies, archives, what is reserved).
STAGED_SUFFIX = "--staged"
LONGEST_SUFFIX = len("--archive-999")
NAME_LIMIT = 127  # Azure Key Vault's limit, the shortest of the stores (cloud documentation: about-keys-secrets)

LONGEST_PREFIX = 64

# The signing and fingerprint keys live under this name, whose own prefix keeps it out of every reader's role.
RESERVED_PREFIX = "reserved--"
RESERVED_KEY = RESERVED_PREFIX + "manifest-keys"


def check_prefix(prefix: str) -> str:
    """Return `prefix`, or raise ConfigurationError if no key name could start with it."""
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"the key prefix {prefix!r} is not usable: lower-case letters, digits and single hyphens only",
            "choose one such as 'daena-'",
        )
    if len(prefix) > LONGEST_PREFIX:
        raise ConfigurationError(
            f"the key prefix {prefix[:20]!r}… has {len(prefix)} characters, at most {LONGEST_PREFIX} fit",
            "choose a shorter one",
        )
    if prefix.startswith("reserved-"):
        raise ConfigurationError(f"the key prefix {prefix!r} is kept for our own records", "choose another prefix")
    return prefix


def name_problem(name: str, prefix: str = "") -> str:
    """What is wrong with a key's name, in one line; empty when every store takes it."""
    if "--" in name:
        return f"key name {name[:40]!r} contains '--', which is kept for our own copies"
    if not _NAME.fullmatch(name):
        return (
            f"key name {name[:40]!r} is not one that every store takes: lower-case letters, digits and '-', "
            "starting and ending with a letter or digit"
        )
    longest = NAME_LIMIT - LONGEST_SUFFIX - len(prefix)
    if len(name) > longest:
        return f"key name {name[:20]!r}… has {len(name)} characters, at most {longest} fit beside our suffixes"
    return ""


def check_name(name: str, prefix: str = "") -> str:
    """Return `name`, or raise ConfigurationError saying what no store would take."""
    if problem := name_problem(name, prefix):
        raise ConfigurationError(problem, "rename the key; 'daena-encryption-key' is a good name")
    return name


def secret_name(prefix: str, key: str) -> str:
    """The secret of a key. What is reserved has a prefix of its own, which no reader's role includes."""
    if key == RESERVED_KEY:
        return f"{RESERVED_PREFIX}{prefix}{RESERVED_KEY.removeprefix(RESERVED_PREFIX)}"
    return prefix + key


def key_of(prefix: str, secret: str) -> str:
    """The key that a secret holds; empty if it is none: another's, an archive, or reserved."""
    key = secret.removeprefix(prefix)
    return "" if not secret.startswith(prefix) or name_problem(key, prefix) else key
