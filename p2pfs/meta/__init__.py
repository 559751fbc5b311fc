"""The namespace of a pool: its protocol, the SQL engine behind it, an in-memory model and the mount's side."""
