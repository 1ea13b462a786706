"""Registration of the gymnasium environments, for ids such as `waymax_sim.gym:waymax_sim/Drive-v0`."""

from waymax_sim.adapters.gymnasium import ENV_ID, DriveEnv, DriveVectorEnv

__all__ = ["ENV_ID", "DriveEnv", "DriveVectorEnv"]
