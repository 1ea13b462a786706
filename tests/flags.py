"""Flags of XLA, which aborts at unknown ones. Imported before jax."""

import re
from importlib.metadata import version


def fusion_emitters(on: bool) -> dict[str, bool]:
    """The flag of the fusion emitters on CPUs; compilation is faster without them. Removed in jax 0.11.1."""
    known = [int(part) for part in re.findall(r"\d+", version("jax"))[:3]] < [0, 11, 1]
    return {"xla_cpu_use_fusion_emitters": on} if known else {}
