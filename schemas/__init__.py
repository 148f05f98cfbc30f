"""Schema registry, compatibility and wire format."""
