"""Beds of long context: recall of habits of drivers, and mixtures of experts, with known optima."""
