"""The demo's main line on fewer records."""
