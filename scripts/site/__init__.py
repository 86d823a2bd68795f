"""Build the documentation site: `python -m scripts.site`, or `make docs`."""
