"""Conversion of a `Scenario` to a `RawScene`: the inverse of `scene.to_scenario`."""

import jax
import numpy as np

from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datatypes.padding import crop_steps
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario


def to_raw_scene(scenario: Scenario) -> RawScene:
    """Moves a scenario back to world coordinates and drops its padding.

    `to_scenario` converts it back to the same scenario, bit for bit, provided that the origin is `local_origin`.
    Properties that a scenario does not have are lost: timestamps start at 0, headings are wrapped, sizes are constant
    over time, invalid states are zero, and an id of more than 64 bytes remains shortened.

    Args:
      scenario: One scenario, without a batch axis.
    """
    scenario = crop_steps(jax.tree.map(np.asarray, scenario))
    info, roadmap, signals = scenario.agents, scenario.roadmap, scenario.signals
    origin = scenario.origin.astype(np.float64)
    exists = info.exists
    log = jax.tree.map(lambda leaf: leaf[:, exists], scenario.log)
    is_sdc = np.flatnonzero(info.is_sdc[exists])
    feature = roadmap.feature[roadmap.valid]
    # A feature without type, id and points is padding.
    features = np.flatnonzero((roadmap.feature_type != -1) | (roadmap.feature_id != -1))
    num_features = max(features.max(initial=-1), feature.max(initial=-1)) + 1
    lights = (signals.lane_id != -1) | signals.valid.any(axis=0)
    signal_valid = signals.valid[:, lights]
    return RawScene(
        scenario_id=scenario.scenario_id,
        timestamps=scenario.timestamps.astype(np.float64),
        current_step=int(scenario.current_step),
        agent_id=info.id[exists],
        agent_type=info.type[exists],
        xyz=np.where(log.valid[..., None], log.xyz + origin, 0.0),
        # float32(-pi) is below -pi.
        yaw=np.maximum(log.yaw.astype(np.float64), -np.pi),
        velocity=log.velocity.astype(np.float64),
        size=np.broadcast_to(info.size[exists].astype(np.float64), (*log.valid.shape, 3)),
        valid=log.valid,
        sdc_index=int(is_sdc[0]) if len(is_sdc) else -1,
        to_predict=info.to_predict[exists],
        of_interest=info.of_interest[exists],
        point_xyz=roadmap.xyz[roadmap.valid] + origin,
        point_feature=feature,
        feature_id=roadmap.feature_id[:num_features],
        feature_type=roadmap.feature_type[:num_features],
        speed_limit=roadmap.speed_limit[:num_features].astype(np.float64),
        links=roadmap.links[roadmap.links[:, 2] >= 0],
        signal_lane_id=signals.lane_id[lights],
        signal_state=signals.state[:, lights],
        signal_stop_point=np.where(signal_valid[..., None], signals.stop_point[:, lights] + origin, 0.0),
        signal_valid=signal_valid,
        routes=_world_routes(scenario.routes, origin),
    )


def _world_routes(routes: Routes | None, origin: np.ndarray) -> RawRoutes | None:
    if routes is None:
        return None
    # Padding comes last along both axes.
    paths, samples = (1 + np.flatnonzero(routes.valid.any(axis=axis)).max(initial=-1) for axis in (1, 0))
    used = (slice(paths), slice(samples))
    valid = routes.valid[used]
    return RawRoutes(
        xyz=np.where(valid[..., None], routes.xyz[used] + origin, 0.0),
        arc_length=routes.arc_length[used].astype(np.float64),
        valid=valid,
        on_route=routes.on_route[:paths],
    )
