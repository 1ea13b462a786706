"""The scene of one-shot driving decisions, and their constants."""

import numpy as np

from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.pytree import static_record


@static_record
class DecisionParams:
    """Constants of the bed; all are choices.

    Attributes:
      accelerations: Actions, m/s^2; the first ones yield.
      duration: Steps of 0.1 s that the action is held.
      other_noise: Standard deviation of the acceleration of the other vehicle, m/s^2.
      progress_scale: Progress of the reward 1, m.
      safe_clearance: Distance between boxes below which the penalty begins, m.
      near_miss_penalty: Penalty of the clearance 0.
      collision_penalty: Further penalty of a collision.
      red_penalty: Penalty of crossing the line at red.
      merge_angle: Angle of the merging lane, rad.
      length: Of the vehicles, m.
      width: Of the vehicles, m.
      num_sites: Sites of each situation.
      random_share: Share of logged decisions that are uniform; the others are cautious.
      logged_clearance: Predicted clearance that the cautious driver keeps, m.
    """

    accelerations: tuple[float, ...] = (-4.0, -2.0, 0.0, 1.0, 2.0)
    duration: int = 40
    other_noise: float = 1.0
    progress_scale: float = 40.0
    safe_clearance: float = 2.0
    near_miss_penalty: float = 0.5
    collision_penalty: float = 1.0
    red_penalty: float = 1.0
    merge_angle: float = 0.35
    length: float = 4.5
    width: float = 2.0
    num_sites: int = 6
    random_share: float = 0.15
    logged_clearance: float = 4.0


def template_scenario(params: DecisionParams) -> Scenario:
    """The lanes of all situations, with two vehicles that stand still in the log."""
    steps = params.duration + 2
    along = np.arange(-120.0, 121.0, 2.0)
    lines = [along[:, None] * [np.cos(yaw), np.sin(yaw), 0.0] for yaw in (0.0, params.merge_angle, np.pi / 2)]
    shape = (steps, 2)
    xyz = np.broadcast_to([[-20.0, 0.0, 0.0], [0.0, -20.0, 0.0]], (*shape, 3))
    raw = RawScene(
        scenario_id="decision",
        timestamps=TIME_STEP * np.arange(steps),
        current_step=0,
        agent_id=np.arange(2),
        agent_type=np.ones(2, int),
        xyz=xyz,
        yaw=np.zeros(shape),
        velocity=np.zeros((*shape, 2)),
        size=np.broadcast_to([params.length, params.width, 1.5], (*shape, 3)),
        valid=np.ones(shape, bool),
        sdc_index=0,
        to_predict=np.zeros(2, bool),
        of_interest=np.zeros(2, bool),
        point_xyz=np.concatenate(lines),
        point_feature=np.repeat(np.arange(3), len(along)),
        feature_id=np.arange(3),
        feature_type=np.full(3, LANE_SURFACE_STREET),
        speed_limit=np.full(3, 13.4),
        links=np.zeros((0, 3), int),
        signal_lane_id=np.zeros(0, int),
        signal_state=np.zeros((steps, 0), int),
        signal_stop_point=np.zeros((steps, 0, 3)),
        signal_valid=np.zeros((steps, 0), bool),
    )
    return to_scenario(raw, pad_to_bucket=False)
