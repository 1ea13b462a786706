"""Inputs that failed at users, with the expected behavior."""
