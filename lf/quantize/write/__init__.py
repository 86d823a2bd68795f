"""Quantization writers, one per target runtime."""
