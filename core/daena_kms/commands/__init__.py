"""The commands of `daena-key-rotate`, a room for each kind: options in, one call of the service, its result out."""
