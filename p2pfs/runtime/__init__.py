"""Plumbing without policy: clocks, credits, workers, settings, the node's home, processes and their logs."""
