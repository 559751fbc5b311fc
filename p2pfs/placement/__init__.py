"""Who holds what: groups, rendezvous order, failure domains, policy. Pure: no I/O, no clocks."""
