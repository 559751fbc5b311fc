"""Looking after what the pool holds: repair, drains, trimming, audits, inventories, purging, and the orders for it."""
