"""Processes killed in mid-stream."""
