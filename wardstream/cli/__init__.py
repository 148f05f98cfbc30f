"""The command line, built on the SDK."""
