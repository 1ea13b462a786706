"""Policies without intentions."""
