"""The pool under simulated time: churn, durability, placement at scale. What `p2pfs simulate` runs.

Placement and repair decisions are the project's own (`p2pfs.placement`); only time, peers and the copying itself are
simulated. No network, disks or coordinator: those run in `tests/simulation/`. Nothing here reads a clock of the
machine, and a seed decides everything.
"""
