"""Files between the worker and the world: downloads, buckets, the network volume. Loads without torch."""
