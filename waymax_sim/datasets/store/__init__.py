"""Converted scenes: scenarios with the indexes of their maps, stored exactly, with random access."""
