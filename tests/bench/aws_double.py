"""The strict double, with the one operation more that AWS's template calls: `python -m tests.bench.aws_double`."""

from ..support import strict_moto
from ..support.moto_secrets import StrictSecrets
from ..support.moto_service import parameters

MORE = {"GetRandomPassword": "ExcludeCharacters"}

if __name__ == "__main__":
    StrictSecrets.KNOWN = {**StrictSecrets.KNOWN, **parameters(MORE)}
    strict_moto.main()
