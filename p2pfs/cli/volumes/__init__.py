"""Commands for volumes, their keys and their mounts."""
