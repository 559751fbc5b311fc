"""Commands for files in a mounted volume."""
