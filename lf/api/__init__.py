"""The Python API. Import these names from `lf`, not from this folder."""
