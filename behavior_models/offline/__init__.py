"""Learning from logged transitions."""
