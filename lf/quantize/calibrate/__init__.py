"""Ranges of activations, measured on calibration images."""
