"""Encoders of observations for networks, beyond the flat view of the simulator."""
