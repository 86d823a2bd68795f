"""Round weights to their grids."""
