"""Delta tables and point-in-time joins."""
