"""Faces in pictures and videos: where they are, and 468 points on each."""
