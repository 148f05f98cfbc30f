"""Rules on the real platform, started once per run."""
