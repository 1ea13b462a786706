"""Domains of the search over programs: inputs, operators and fitness."""
