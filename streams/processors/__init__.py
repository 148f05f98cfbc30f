"""The processors that come with the platform."""
