"""Interfaces to reinforcement learning: gymnasium, Stable-Baselines3, PettingZoo, JaxMARL, dm_env, and pure functions.

Each module requires the library in its name (`pip install 'waymax-sim[rl]'`) and is imported separately, as in
`from waymax_sim.adapters.gymnasium import DriveVectorEnv`; `functional` and `jaxmarl` require none.
"""


def missing_library(library: str, extra: str = "rl") -> ImportError:
    """The error for an adapter whose library, a part of the extra, is not installed."""
    return ImportError(f"this adapter needs {library}, which is not installed: pip install 'waymax-sim[{extra}]'")
