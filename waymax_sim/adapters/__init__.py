"""Other people's loops: gymnasium, PettingZoo, dm_env, and pure functions that reset themselves.

Each module needs the library that it is named after (`pip install 'waymax-sim[rl]'`) and is imported by its own name,
as in `from waymax_sim.adapters.gymnasium import DriveVectorEnv`; `functional` needs none.
"""


def missing(library: str) -> ImportError:
    """What to raise where the library of an adapter is not installed."""
    return ImportError(f"this adapter needs {library}, which is not installed: pip install 'waymax-sim[rl]'")
