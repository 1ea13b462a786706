"""A transformer over tokens of motion that drives all agents of a scene."""
