"""Interfaces to reinforcement learning libraries: gymnasium, PettingZoo, dm_env, and pure functions with auto-reset.

Each module requires the library in its name (`pip install 'waymax-sim[rl]'`) and is imported separately, as in
`from waymax_sim.adapters.gymnasium import DriveVectorEnv`; `functional` requires none.
"""


def missing_library(library: str) -> ImportError:
    """The error for an adapter whose library is not installed."""
    return ImportError(f"this adapter needs {library}, which is not installed: pip install 'waymax-sim[rl]'")
