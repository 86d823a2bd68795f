"""Measure latency and energy."""
