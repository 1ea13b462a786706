"""Flags of XLA, which stops at those that it does not know. Imported before jax is."""

import re
from importlib.metadata import version


def fusion_emitters(on: bool) -> dict[str, bool]:
    """The flag for how fused loops are compiled on a CPU; without them it is quicker. Gone since jax 0.11.1."""
    known = [int(part) for part in re.findall(r"\d+", version("jax"))[:3]] < [0, 11, 1]
    return {"xla_cpu_use_fusion_emitters": on} if known else {}
