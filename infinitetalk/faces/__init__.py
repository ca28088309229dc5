"""Faces in pictures and videos: where they are, 468 points on each, and how their mouths move."""
