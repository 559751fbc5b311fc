"""The command line: one file a command, each thin over the layers below, in the groups of `p2pfs --help`.

A group is a package, with its commands and what only they use; what several groups use is here. Groups do not import
each other, but `trying` may use the others, since a demo is a whole pool.

Nothing imports this package. trio, httpx and cryptography are imported inside commands, so that `p2pfs --help` answers
at once.
"""
