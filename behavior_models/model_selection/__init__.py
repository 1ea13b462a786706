"""Selection of function classes and policies from logged data, without rollouts of the candidates."""
