"""How fast it is, and how that was measured: the command `waymax-sim bench`."""
