"""Examples: the demo and the devices that it replays."""
