"""Key stores: one module each, which imports only the ground floor and its own SDK."""
