"""The command `daena-key-rotate`, from outside."""
