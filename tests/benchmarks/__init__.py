"""Figures, each beside its peer."""
