"""Pictures drawn by the project."""
