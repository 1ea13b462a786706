"""Scenes of driving tasks: logged agents other than the ego do not drive or walk through vehicles."""

import itertools

import numpy as np
import pytest

from behavior_models.offline.task_scenes import CURRENT_STEP, roundabout
from behavior_models.offline.tasks import TASKS, draw_scenes
from tests import oracle
from waymax_sim.datatypes.agents import VEHICLE

NUM_SCENES = 24
# Centers of vehicles that are further apart do not overlap, m.
REACH = 5.0


@pytest.mark.parametrize("name", list(TASKS))
def test_logged_agents_do_not_overlap_vehicles(name):
    scenario = draw_scenes(name, 901, range(NUM_SCENES)).scenario
    agents, log = scenario.agents, scenario.log
    others = agents.exists & ~agents.is_sdc
    for scene in range(NUM_SCENES):
        for pair in itertools.combinations(np.flatnonzero(others[scene]), 2):
            slots = list(pair)
            # Pedestrians pass each other.
            if VEHICLE not in agents.type[scene, slots]:
                continue
            # Every third step from the present on.
            xy, yaw = log.xyz[scene, CURRENT_STEP::3, slots, :2], log.yaw[scene, CURRENT_STEP::3, slots]
            first, second = np.concatenate([xy, yaw[..., None]], axis=-1)
            size = agents.size[scene, slots, :2]
            for step in np.flatnonzero(np.hypot(*(first - second)[:, :2].T) < REACH):
                gap = oracle.separation((*first[step], *size[0]), (*second[step], *size[1]))
                assert gap > 0, (name, scene, slots, step)


def test_vehicles_of_a_roundabout_keep_their_distance():
    for seed in range(400):
        positions = np.array([mover.track[CURRENT_STEP] for mover in roundabout(np.random.default_rng(seed)).movers])
        gaps = [np.hypot(*(one - other)) for one, other in itertools.combinations(positions, 2)]
        assert min(gaps) > 7.0
