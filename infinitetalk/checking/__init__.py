"""What a finished video's file holds, against what it should hold. docs/quality.md says how."""
