"""Commands that say how a pool, a mount or this machine is."""
