"""The Python API: what `import lf` offers. Use the names in `lf`, not those of this folder."""
