"""Realism over whole data sets: the Waymo Open Sim Agents metrics of rollouts."""

from waymax_sim.evaluation.realism.evaluate import RealismResult, evaluate_realism

__all__ = ["RealismResult", "evaluate_realism"]
