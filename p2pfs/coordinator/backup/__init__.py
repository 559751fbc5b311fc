"""The coordinator on other machines: backups of its database on peers, and restoring from them."""
