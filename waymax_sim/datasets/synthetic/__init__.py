"""A made-up world: maps, traffic that behaves, and what sensors would have seen of it."""

from waymax_sim.datasets.synthetic.scene import synthetic_scene

__all__ = ["synthetic_scene"]
