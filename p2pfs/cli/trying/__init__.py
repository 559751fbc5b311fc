"""Commands for trying p2pfs and measuring it. They may use the other groups: a demo is a whole pool."""
