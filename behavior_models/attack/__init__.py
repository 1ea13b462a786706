"""Adversarial testing: variants of a scene in which a policy is at fault for a collision that could be avoided."""
