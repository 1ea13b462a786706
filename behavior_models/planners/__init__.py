"""Planners of the ego that simulate ahead."""
