"""Speakers' faces from the model, everything else from the source."""
