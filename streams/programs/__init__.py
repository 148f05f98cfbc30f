"""A project's own programs and the sandbox they run in."""
