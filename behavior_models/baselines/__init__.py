"""Baselines that follow no goal of their own: log replay, kinematics, random actions."""
