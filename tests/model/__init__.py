"""The protocol explored exhaustively: the real rules over a small model of ledger and store."""
