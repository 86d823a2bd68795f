"""Per-layer sensitivity and the search for bits within a budget."""
