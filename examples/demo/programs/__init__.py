"""Programs that the demo runs in the sandbox."""
