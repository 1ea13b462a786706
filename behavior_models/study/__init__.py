"""Evaluation of driving policies: every traveling vehicle alone among other traffic, all together, and realism."""
