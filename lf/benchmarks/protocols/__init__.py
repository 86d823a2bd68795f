"""Evaluation protocols: geometry, matching, metrics, means and intervals."""
