"""Tables and charts of results."""
