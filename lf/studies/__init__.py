"""Combinations of the other folders: sweeps, tuning, validation, demo, live view, doctor."""
