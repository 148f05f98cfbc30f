"""Feature rows in Redis."""
