"""Learning from logged transitions, without interaction."""
