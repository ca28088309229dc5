"""InfiniteTalk: one picture (or video) and one or two voices become a talking video of any length."""

__version__ = "0.1.0"
