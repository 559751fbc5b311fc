"""Checking a volume as a member with its key sees it, and mending what can be mended safely: `p2pfs fsck`."""
