"""Visualization: images, videos and interactive HTML pages of scenes."""

from waymax_sim.viz.draw import draw, to_image
from waymax_sim.viz.html import Page, viewer
from waymax_sim.viz.video import animate

__all__ = ["Page", "animate", "draw", "to_image", "viewer"]
