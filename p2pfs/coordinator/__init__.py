"""The coordinator: who belongs to the pool, which peers are up, where there is room, and the namespace's service.

`composition` wires it, `daemon` runs it, `init` makes a new one, `handlers` maps `wire.routes.COORDINATOR_ROUTES` to
the services here. It never sees a key or a plain byte of any volume.
"""
