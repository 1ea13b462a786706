"""Data types: scenario, state, action."""
