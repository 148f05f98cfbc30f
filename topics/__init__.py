"""Topics behind datasets: plans, records and dead letters."""
