"""Random scenes for writers: any sizes, with numbers that are exact in float32 and microseconds."""

import numpy as np
from hypothesis import strategies as st

from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datatypes.roadmap import LANE_TYPES

SIZES = {"steps": (1, 12), "agents": (0, 140), "features": (0, 12), "lights": (0, 16), "paths": (0, 3)}


def scene_arguments(**given: int) -> st.SearchStrategy[dict[str, int]]:
    """Arguments of `random_scene`: random sizes, except for the given ones."""
    sizes = {name: st.integers(*limits) for name, limits in SIZES.items()}
    return st.fixed_dictionaries(
        {"seed": st.integers(0, 2**32), **sizes, **{name: st.just(size) for name, size in given.items()}}
    )


def random_scene(seed: int, steps: int, agents: int, features: int, lights: int, paths: int) -> RawScene:
    """The last agent, if any, is valid at all steps, each light at one step or more."""
    rng = np.random.default_rng(seed)

    def numbers(limit, *shape):
        return rng.integers(-limit * 64, limit * 64, (*shape,)) / 64

    def flags(*shape):
        return rng.random(shape) < 0.6

    valid, lit = flags(steps, agents), flags(steps, lights)
    valid[:, -1:] = True
    lit[rng.integers(0, steps, lights), np.arange(lights)] = True
    xyz = numbers(8000, steps, agents, 3)
    xyz[~valid] = rng.choice([np.nan, 1e300, -1.0, 0.0])
    feature_type = rng.integers(0, 21, features)
    feature_type[feature_type == 4] = 20
    points = rng.integers(1, 5, features)
    lanes = np.flatnonzero(np.isin(feature_type, LANE_TYPES))
    pairs = rng.choice(lanes, (4, 2)) if len(lanes) else np.zeros((0, 2), int)
    along = np.sort(rng.integers(0, 500, (paths, 6)) / 4)
    count = rng.integers(1, 7, (paths, 1))
    count[:1] = 6
    here = np.arange(6) < count
    return RawScene(
        scenario_id="".join(rng.choice(list("0123456789abcdefü"), rng.integers(1, 20))),
        timestamps=np.arange(steps) * rng.integers(1, 100) / 64,
        current_step=int(rng.integers(0, steps)),
        agent_id=rng.permutation(2000)[:agents],
        agent_type=rng.integers(0, 5, agents),
        xyz=xyz,
        yaw=numbers(12, steps, agents),
        velocity=numbers(30, steps, agents, 2),
        size=np.abs(numbers(12, steps, agents, 3)),
        valid=valid,
        sdc_index=int(rng.integers(-1, agents)),
        to_predict=flags(agents),
        of_interest=flags(agents),
        point_xyz=numbers(8000, points.sum(), 3),
        point_feature=np.repeat(np.arange(features), points),
        feature_id=rng.permutation(features) * 2**22,
        feature_type=feature_type,
        speed_limit=np.where(np.isin(feature_type, LANE_TYPES), rng.integers(0, 60, features) * 0.44704, 0.0),
        links=np.unique(np.concatenate([pairs, rng.integers(0, 3, (len(pairs), 1))], axis=1), axis=0),
        signal_lane_id=np.sort(rng.permutation(2**20)[:lights]),
        signal_state=np.where(lit, rng.integers(0, 9, (steps, lights)), 0),
        signal_stop_point=np.where(lit[..., None], numbers(8000, steps, lights, 3), 0.0),
        signal_valid=lit,
        routes=RawRoutes(np.where(here[..., None], numbers(8000, paths, 6, 3), 0.0), along * here, here, flags(paths))
        if paths
        else None,
    )
