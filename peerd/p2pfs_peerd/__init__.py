"""The peer daemon: keeps other people's sealed chunks on this machine's disk."""
