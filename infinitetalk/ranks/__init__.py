"""Several GPUs as one: a process for each, which rank 0, the worker itself, starts, directs and ends."""
