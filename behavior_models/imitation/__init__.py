"""Imitation of logged behavior."""
