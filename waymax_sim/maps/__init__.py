"""Queries of the map, and builders of its indexes and of the lane graph."""
