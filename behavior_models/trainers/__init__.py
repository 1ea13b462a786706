"""Trainings from end to end: scenes, algorithm, evaluation on held-out scenes, and the stored policy."""
