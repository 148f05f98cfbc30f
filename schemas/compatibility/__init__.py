"""Whether a reader of one schema can read what was written with another."""
