"""What flows: scenario, state, action."""
