"""Reinforcement learning: one algorithm per module."""
