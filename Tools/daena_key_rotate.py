"""The guide's command: `python Tools/daena_key_rotate.py …` is `daena-key-rotate …`.

It changes no search path. The command needs click, cryptography and msgspec, so whoever can run it has installed
packages anyway; a checkout's `core/` found by chance would hide an installed version of another age.
"""

import sys

try:
    from daena_kms.cli import main
except ModuleNotFoundError as missing:
    sys.stderr.write(
        f"error: the package {missing.name} is not installed for {sys.executable}\n"
        "hint: pip install 'daena-kms[cli]' with the extra of your cloud, such as 'daena-kms[cli,aws]'; "
        "in a clone, pip install -e '.[cli,aws]'\n"
    )
    sys.exit(2)

if __name__ == "__main__":
    main()
