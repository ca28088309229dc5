"""What says that a video was made by AI: signed content credentials (C2PA), and plain metadata (XMP)."""
