"""Feature groups, online and offline stores, SQL and training data."""
