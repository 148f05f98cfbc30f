"""The doors: REST, schema registry and console."""
