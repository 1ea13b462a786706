"""The official numbers for rollouts of two recorded scenes."""

import functools
import json

import jax
import numpy as np
import pytest

from tests.data import recorded
from waymax_sim.datasets.formats.sim_agents_submission import read_npz
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.evaluation.realism.evaluate import from_rollout_file, recorded_log
from waymax_sim.metrics.realism import CONFIGS, Comparison, EvaluatedAgents, SceneFeatures, compare_rollouts, score

pytestmark = pytest.mark.compile_heavy

SCENES = {
    "637f20cafde22ff8": (
        "const_vel",
        "const_vel_noise",
        "log_oracle",
        "log_oracle_cv",
        "log_raw_copy",
        "stationary",
        "test_submission",
    ),
    "2a1e44d405a6833f": ("const_vel", "const_vel_noise", "log_oracle_cv", "stationary"),
}
CASES = [(scene, name) for scene, names in SCENES.items() for name in names]
YEARS = {"2023": "2023", "2024": "2024", "2025": "2025_sim_agents"}
# Zero is the end of a bin of 2023: whether an acceleration is a little more or less is up to rounding.
TOLERANCE = {"2023": 1e-4, "2024": 5e-6, "2025": 5e-6}
KINEMATIC = ("linear_speed", "linear_acceleration", "angular_speed", "angular_acceleration")
OTHERS = ("distance_to_nearest_object", "time_to_collision", "distance_to_road_edge")


@functools.cache
def scenes_and_logs():
    """Both scenes, padded to equal sizes so that one program does for both."""
    raws = {scene_id: load(recorded(f"womd/scenario_{scene_id}.tfrecord")).read(0) for scene_id in SCENES}
    scenarios = {scene_id: to_scenario(raw) for scene_id, raw in raws.items()}
    both = [axis_lengths(scenario) for scenario in scenarios.values()]
    room = {axis: max(have[axis] for have in both) for axis in both[0]}
    padded = {scene_id: pad(scenario, room) for scene_id, scenario in scenarios.items()}
    return {scene_id: (scenario, recorded_log(raws[scene_id], scenario)) for scene_id, scenario in padded.items()}


@jax.jit
def features_and_scores(scenario, rollouts, log):
    features = compare_rollouts(scenario, rollouts, log=log)
    return features, {year: score(features, CONFIGS[year]) for year in YEARS}


@functools.cache
def ours(scene_id, name):
    scenario, log = scenes_and_logs()[scene_id]
    rollouts = from_rollout_file(read_npz(recorded(f"wosac/{scene_id}/rollouts_{name}.npz")), scenario)
    return jax.device_get(features_and_scores(scenario, rollouts, log))


def official(scene_id, name):
    features = np.load(recorded(f"wosac/{scene_id}/features_{name}.npz"))
    scores = json.loads(recorded(f"wosac/{scene_id}/metrics_{name}.json").read_text())
    return dict(features), scores


def equal_scores(found, scores, tolerance):
    for year, key in YEARS.items():
        mine, theirs, buckets = found[year], scores["configs"][key], scores["buckets"][key]
        for feature, value in mine.likelihoods.items():
            assert value == pytest.approx(theirs[f"{feature}_likelihood"], abs=tolerance[year]), (year, feature)
        assert mine.meta_metric == pytest.approx(theirs["metametric"], abs=tolerance[year])
        for bucket, value in mine.buckets.items():
            assert value == pytest.approx(buckets[f"{bucket}_metrics"], abs=tolerance[year])
        for rate, value in mine.simulated_rates.items():
            assert value == pytest.approx(theirs[f"simulated_{rate}_rate"], abs=1e-7)
        assert mine.ade == pytest.approx(theirs["average_displacement_error"], abs=1e-5)
        assert mine.min_ade == pytest.approx(theirs["min_average_displacement_error"], abs=1e-5)


@pytest.mark.parametrize(("scene_id", "name"), CASES)
def test_a2_scores_from_the_record_equal_the_official_ones(scene_id, name):
    equal_scores(ours(scene_id, name)[1], official(scene_id, name)[1], TOLERANCE)


@pytest.mark.parametrize(("scene_id", "name"), CASES)
def test_features_equal_the_official_ones(scene_id, name):
    found, expected = ours(scene_id, name)[0], official(scene_id, name)[0]
    count = len(expected["object_id"])
    np.testing.assert_array_equal(found.agents.id[:count], expected["object_id"])
    np.testing.assert_array_equal(found.agents.logged[:, :count].T, expected["log_valid"][0])
    assert not found.agents.exists[count:].any()
    rare = []
    for side, features in (("log", found.log), ("sim", found.sim)):

        def value(feature, features=features, side=side):
            mine = np.asarray(getattr(features, feature))[..., :count].swapaxes(-1, -2)
            return np.broadcast_to(mine, expected[f"{side}_linear_speed"].shape[:1] + mine.shape[-2:])

        for feature in KINEMATIC:
            theirs = expected[f"{side}_{feature}"]
            np.testing.assert_array_equal(np.isnan(value(feature)), np.isnan(theirs))
            np.testing.assert_allclose(value(feature), theirs, rtol=1e-6, atol=2e-5 if theirs.max() < 1e3 else 0.05)
        for feature in OTHERS:
            difference = np.abs(value(feature) - expected[f"{side}_{feature}"])
            # The last bit of a corner may differ: 0.5 mm in the world.
            assert difference.max() < 1.1e-3
            rare.append(np.mean(difference > 1e-4))
        red = expected[f"{side}_traffic_light_violation_per_step"]
        np.testing.assert_array_equal(value("traffic_light_violation"), red)
        collides = value("distance_to_nearest_object") < 0
        np.testing.assert_array_equal(collides, expected[f"{side}_collision_per_step"])
        np.testing.assert_array_equal(value("distance_to_road_edge") > 0, expected[f"{side}_offroad_per_step"])
    assert np.max(rare) < 0.03


@pytest.mark.parametrize(("scene_id", "name"), CASES[:1] + CASES[6:8])
def test_a1_scores_from_official_features_equal_the_official_ones(scene_id, name):
    expected, scores = official(scene_id, name)

    def features(side):
        def array(feature):
            return np.moveaxis(expected[f"{side}_{feature}"], 1, -1)

        return SceneFeatures(
            **{feature: array(feature) for feature in (*KINEMATIC, *OTHERS)},
            traffic_light_violation=array("traffic_light_violation_per_step"),
            displacement=expected[f"{side}_average_displacement_error"],
        )

    ids = expected["object_id"].astype(np.int32)
    agents = EvaluatedAgents(
        row=np.arange(len(ids), dtype=np.int32),
        id=ids,
        type=expected["log_object_type"][0].astype(np.int32),
        exists=np.ones(len(ids), bool),
        logged=expected["log_valid"][0].T,
    )
    log = jax.tree.map(lambda leaf: leaf[0], features("log"))
    scored = jax.jit(lambda item: {year: score(item, CONFIGS[year]) for year in YEARS})
    found = jax.device_get(scored(Comparison(agents, log, features("sim"))))
    equal_scores(found, scores, dict.fromkeys(YEARS, 1e-5))
    for feature in (*KINEMATIC, *OTHERS):
        item, value = found["2025"].log_likelihoods[feature], expected[f"loglik2025_{feature}"].T
        np.testing.assert_allclose(item.value[item.counts], value[item.counts], atol=1e-5)


def test_replay_is_not_perfect_and_collides_as_the_log_does():
    found = ours("637f20cafde22ff8", "log_raw_copy")[1]["2025"]
    assert found.meta_metric == pytest.approx(0.826631427, abs=1e-6)
    assert found.simulated_rates["collision"] == 0.25
    assert found.likelihoods["collision_indication"] == pytest.approx(32.001 / 32.002, abs=1e-6)


@pytest.mark.parametrize("scene_id", SCENES)
def test_a9_standing_still_collides_little_and_moves_unlike_the_log(scene_id):
    """The metric is not a counter of collisions: stationary agents collide least, and move least like the log."""
    frozen, moving = (ours(scene_id, name)[1]["2025"] for name in ("stationary", "const_vel"))
    # One of four agents touches another at the current step already.
    assert frozen.simulated_rates["collision"] <= {"2a1e44d405a6833f": 0.0, "637f20cafde22ff8": 0.25}[scene_id]
    assert frozen.simulated_rates["collision"] <= moving.simulated_rates["collision"]
    assert frozen.likelihoods["linear_speed"] < moving.likelihoods["linear_speed"]
    assert frozen.buckets["kinematic"] < moving.buckets["kinematic"]
