"""Random scenes of all formats of content."""

import numpy as np
from hypothesis import strategies as st

from waymax_sim.datasets.scene import RawRoutes, RawScene

FEATURE_TYPES = [-1, 0, 1, 2, 3, 5, 6, 14, 15, 16, 17, 18, 19, 20]


# Arguments of `random_scene`.
CHOICES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "steps": st.integers(1, 6),
        "agents": st.integers(0, 5),
        "lights": st.integers(0, 3),
        "features": st.integers(0, 6),
        "spread": st.sampled_from([0.0, 0.4, 3.0, 40.0, 3000.0]),
        "distance": st.sampled_from([0.0, 1.0, 1e4, 1e6]),
        "repeats": st.sampled_from([0.0, 0.3]),
        "paths": st.sampled_from([0, 1, 3]),
        "scenario_id": st.text(max_size=20),
    }
)


def random_scene(
    seed: int,
    steps: int,
    agents: int,
    lights: int,
    features: int,
    spread: float,
    distance: float,
    repeats: float,
    paths: int,
    scenario_id: str,
) -> RawScene:
    """A small scene with random optional content; points repeat, are far apart or coincide."""
    rng = np.random.default_rng(seed)
    samples = 3 * paths
    centre = distance * rng.uniform(-1, 1, 3)
    lengths = rng.integers(1, 30, features)
    points = [centre + np.cumsum(rng.normal(0, spread, (length, 3)), axis=0) for length in lengths]
    for line in points:
        again = 1 + np.flatnonzero(rng.random(len(line) - 1) < repeats)
        line[again] = line[again - 1]
        if rng.random() < 0.3:
            line[-1] = line[0]
    valid, lit = rng.random((steps, agents)) < 0.7, rng.random((steps, lights)) < 0.7
    return RawScene(
        scenario_id=scenario_id,
        timestamps=np.cumsum(rng.uniform(0.08, 0.12, steps)),
        current_step=int(rng.integers(steps)),
        agent_id=rng.integers(-(2**31), 2**31, agents),
        agent_type=rng.integers(0, 5, agents),
        xyz=centre + rng.normal(0, 30, (steps, agents, 3)),
        yaw=rng.uniform(-9, 9, (steps, agents)),
        velocity=rng.normal(0, 15, (steps, agents, 2)),
        size=rng.uniform(0.3, 8, (steps, agents, 3)),
        valid=valid,
        sdc_index=int(rng.integers(-1, agents)) if agents else -1,
        to_predict=rng.random(agents) < 0.5,
        of_interest=rng.random(agents) < 0.5,
        point_xyz=np.concatenate([np.zeros((0, 3)), *points]),
        point_feature=np.repeat(np.arange(features), lengths),
        feature_id=rng.permutation(2**31 - 1 - np.arange(features) * 1000),
        feature_type=rng.choice(FEATURE_TYPES, features),
        speed_limit=rng.uniform(0, 30, features),
        links=np.stack([rng.integers(0, max(features, 1), 2 * features)] * 2 + [rng.integers(0, 3, 2 * features)], -1),
        signal_lane_id=rng.integers(0, 2**31, lights),
        signal_state=rng.integers(0, 9, (steps, lights)),
        signal_stop_point=centre + rng.normal(0, 30, (steps, lights, 3)),
        signal_valid=lit,
        routes=RawRoutes(
            xyz=centre + rng.normal(0, 30, (paths, samples, 3)),
            arc_length=np.cumsum(rng.uniform(0, 2, (paths, samples)), axis=1),
            valid=rng.random((paths, samples)) < 0.8,
            on_route=rng.random(paths) < 0.5,
        )
        if paths
        else None,
    )
