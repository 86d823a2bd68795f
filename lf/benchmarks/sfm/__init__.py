"""Reconstruction and localisation from the matches of a network, through COLMAP; see docs/sfm.md."""
