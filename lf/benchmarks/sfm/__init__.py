"""Reconstruction and localization with COLMAP from the matches of a network; see docs/sfm.md."""
