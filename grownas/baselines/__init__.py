"""Models that the grown cell is compared with."""
