"""Search over programs of primitive operators by evolution that a learned comparison of programs guides."""
