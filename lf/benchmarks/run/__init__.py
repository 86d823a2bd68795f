"""Evaluate files over pairs; keep, load and compare the results."""
