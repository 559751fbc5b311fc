"""The command line: one file a command, each thin over the layers below.

Nothing imports this package. trio, httpx and cryptography are imported inside commands, so that `p2pfs --help` answers
at once.
"""
