"""Synthetic scenes: procedural maps, simulated traffic and a sensor model."""

from waymax_sim.datasets.synthetic.scene import synthetic_scene

__all__ = ["synthetic_scene"]
