"""Reconstruction and localisation with COLMAP from the matches of a network; see docs/sfm.md."""
