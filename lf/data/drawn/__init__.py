"""Images drawn by lf."""
