"""The compact form of scenes: converted once, with the indexes of their maps, and quick to load."""
