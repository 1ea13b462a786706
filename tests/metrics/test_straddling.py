"""Straddling in bends; straight lanes are in test_rules."""

import jax
import numpy as np

from tests import oracle
from tests.maps.lane_maps import arc
from tests.scenes import agent_state, measure, scene
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET
from waymax_sim.metrics import METRICS


def test_straddling_in_a_bend():
    """Two concentric lanes: borders are circles, and long agents reach over them."""
    inner, outer = 20.0, 23.5
    lanes = [arc((0, 0), radius, -40, 40) for radius in (inner, outer)]
    feature = np.repeat([0, 1], [len(lane) for lane in lanes])
    rng, count = np.random.default_rng(0), 300
    radius = rng.choice([inner, outer], count)
    far, angle = radius + rng.uniform(-1.2, 1.2, count), rng.uniform(-0.3, 0.3, count)
    yaw = angle + np.pi / 2 + rng.uniform(-0.1, 0.1, count)
    size = np.column_stack([rng.uniform(1, 8, count), rng.uniform(0.5, 2.5, count), np.full(count, 1.5)])
    xyz = np.column_stack([far * np.cos(angle), far * np.sin(angle), np.full(count, 0.75)])
    scenario = scene(
        num_agents=count,
        point_xyz=np.concatenate(lanes),
        point_feature=feature,
        feature_id=np.array([10, 11]),
        feature_type=np.full(2, LANE_SURFACE_STREET),
        speed_limit=np.zeros(2),
        size=np.broadcast_to(size, (21, count, 3)),
    )
    found = jax.device_get(measure(METRICS["straddling"].compute, scenario, agent_state(xyz - scenario.origin, yaw)))
    assert found.valid.all()
    num_evaluated = 0
    for agent in range(count):
        reach = np.hypot(*oracle.corners(*xyz[agent, :2], yaw[agent], *size[agent, :2]).T)
        over = reach.max() - (inner + 1.75 + 0.2) if radius[agent] == inner else outer - 1.75 - 0.2 - reach.min()
        # Lanes are polylines, and circles are approximated to second order.
        if abs(over) > 0.1:
            num_evaluated += 1
            assert found.value[agent] == (over > 0), agent
    assert num_evaluated > 0.8 * count and 0.1 < found.value.mean() < 0.9
