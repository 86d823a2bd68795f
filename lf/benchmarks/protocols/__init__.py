"""How numbers are made: geometry, matching, metrics, means and intervals."""
