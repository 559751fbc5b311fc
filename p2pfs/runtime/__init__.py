"""Plumbing without policy: clocks, locks, credits, workers, settings, the node's home, processes and their logs."""
