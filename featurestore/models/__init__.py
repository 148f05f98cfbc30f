"""A thin registry of models: which version was trained on what, how good it was, and its files."""
