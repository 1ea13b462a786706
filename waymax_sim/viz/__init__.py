"""For eyes: pictures and videos of scenes."""

from waymax_sim.viz.draw import draw, to_image
from waymax_sim.viz.video import animate

__all__ = ["animate", "draw", "to_image"]
