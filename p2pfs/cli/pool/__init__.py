"""Commands for a pool and its machines."""
