"""Returns: request, review, inspection, photos."""
