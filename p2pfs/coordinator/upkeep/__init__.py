"""Looking after what the pool holds: repair, drains, trimming, audits, inventories, purging, and orders for all of it."""
