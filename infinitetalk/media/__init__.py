"""Sound, pictures and video, read and written by programs that are bounded in time and memory."""
