"""Messages, routes and failures as they cross the network. Pure: bytes ⇄ values, no I/O."""
