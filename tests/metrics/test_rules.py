"""Metrics of traffic rules in cases computed by hand. Values are those of the first agent."""

import dataclasses

import numpy as np
import pytest

from tests.metrics.rules import (
    AT,
    BRIDGE_Z,
    NUM_STEPS,
    TIME,
    circle,
    episode,
    evaluate_episode,
    first_values,
    make_case,
    total,
    track,
)

NORTH = np.pi / 2

# Time to collision.


def test_time_to_a_lead():
    # 26 m between bumpers, closing at 5 m/s.
    times = first_values("time_to_collision", [track(), track(x=30, speed=5)])
    np.testing.assert_allclose(times, np.minimum(5.2 - TIME[1:], 5), atol=1e-4)


def test_time_to_crossing_traffic_at_the_side():
    # Both have 17 m to the common corner; each has the other at 45 degrees.
    times = first_values("time_to_collision", [track(), track(x=20, y=-20, yaw=NORTH)])
    np.testing.assert_allclose(times[:16], 1.7 - TIME[1:17], atol=1e-4)


def test_time_to_a_trailer_that_drifts_over():
    # Its middle is 7 m behind, its side 1.25 m away and coming nearer at 1 m/s.
    trailer = track(x=-7, y=3.5, velocity=(10, -1))
    times = first_values("time_to_collision", [track(), trailer], sizes=[(4, 2, 1.5), (16, 2.5, 3)])
    np.testing.assert_allclose(times[:10], 1.25 - TIME[1:11], atol=1e-4)


def test_agents_behind_count_only_when_reversing():
    forward = episode([track(speed=5), track(x=-14, speed=10)])["time_to_collision"].value
    # 10 m at 5 m/s; after that they overlap.
    np.testing.assert_array_equal(forward[:19, 0], 5)
    np.testing.assert_allclose(forward[:19, 1], 2 - TIME[1:20], atol=1e-4)
    backward = first_values("time_to_collision", [track(velocity=(-2, 0)), track(x=-10, speed=0)])
    np.testing.assert_allclose(backward[:29], 3 - TIME[1:30], atol=1e-4)


def test_stationary_agents_have_the_maximum_time():
    assert (first_values("time_to_collision", [track(speed=0), track(x=20, speed=10, yaw=np.pi)]) == 5).all()


def test_the_time_to_a_car_on_a_bridge_is_the_maximum():
    assert (first_values("time_to_collision", [track(x=-15), track(y=-15, yaw=NORTH, z=BRIDGE_Z)]) == 5).all()


def test_the_time_in_contact_is_zero():
    times = first_values("time_to_collision", [track(speed=10), track(x=3, y=0.5, speed=9)])
    np.testing.assert_array_equal(times[:5], 0)


# Fault.


def count_faults(tracks, **changes) -> list[int]:
    """Number of at-fault collisions of each agent."""
    found = episode(tracks, **changes)["at_fault_collision"]
    return found.value.sum(axis=0)[: len(tracks)].astype(int).tolist()


def test_a_rear_end_collision_is_the_fault_of_the_follower():
    assert count_faults([track(), track(x=10, speed=5)]) == [1, 0]
    # Independent of the rows of the agents.
    assert count_faults([track(x=10, speed=5), track()]) == [0, 1]


def test_hitting_a_stationary_agent_is_the_fault_of_the_moving_one():
    assert count_faults([track(), track(x=10, speed=0)]) == [1, 0]
    # With the side, too.
    assert count_faults([track(velocity=(0, 2)), track(y=3.5, speed=0)]) == [1, 0]


def test_both_are_at_fault_in_a_head_on_collision():
    assert count_faults([track(), track(x=20, yaw=np.pi)]) == [1, 1]


def test_in_crossing_traffic_the_agent_with_the_front_contact_is_at_fault():
    # The second comes from the right and meets the side of the first at its middle.
    assert count_faults([track(x=-8), track(y=-11, yaw=NORTH)]) == [0, 1]


def test_a_side_swipe_is_the_fault_of_the_agent_that_leaves_its_lane():
    # The second comes over from the left lane at 1 m/s sideways.
    assert count_faults([track(), track(y=3.5, velocity=(10, -1), x=0.5)]) == [0, 1]


def test_a_side_swipe_within_a_lane_has_no_agent_at_fault():
    narrow = (2.0, 0.6, 1.5)
    assert count_faults([track(y=-0.5), track(y=0.9, velocity=(10, -0.5))], sizes=narrow) == [0, 0]


def test_reversing_into_another_agent_is_at_fault():
    assert count_faults([track(velocity=(-5, 0)), track(x=-10, velocity=(-1, 0))]) == [1, 0]


def test_collisions_are_separated_by_type():
    tracks = [track(), track(x=10, speed=0), track(x=10, y=1.5, speed=0), track(x=10, y=-1.5, speed=0)]
    sizes = [(4, 2, 1.5), (0.5, 0.5, 1), (0.5, 0.5, 1), (0.5, 0.5, 1)]
    names = ("at_fault_collision", "at_fault_vehicle_collision", "at_fault_vru_collision", "at_fault_object_collisions")
    for types, expected in (
        ([1, 1, 1, 1], [1, 1, 0, 0]),
        ([1, 2, 1, 1], [1, 0, 1, 0]),
        ([1, 3, 1, 1], [1, 0, 1, 0]),
        ([1, 4, 1, 1], [1, 0, 0, 1]),
    ):
        found = episode(tracks, types=types, sizes=sizes)
        assert [found[name].value[:, 0].sum() for name in names] == expected
    # Three objects in one step: one collision, three objects.
    found = episode([tracks[0], *(track(x=10, y=y, speed=0) for y in (-0.7, 0, 0.7))], types=[1, 4, 4, 4], sizes=sizes)
    assert [found[name].value[:, 0].sum() for name in names] == [1, 0, 0, 3]


def test_agents_on_another_level_do_not_collide():
    assert count_faults([track(x=-15), track(y=-15, yaw=NORTH, z=BRIDGE_Z)]) == [0, 0]


# Room.


def test_clearance():
    assert first_values("clearance", [track(), track(y=3.5)]) == pytest.approx(1.5, abs=1e-4)
    # 3 m ahead and 4 m aside, from corner to corner.
    assert first_values("clearance", [track(), track(x=7, y=6)]) == pytest.approx(5.0, abs=1e-4)
    # A square with a corner towards the front: its half diagonal is sqrt(4 / 2) m.
    tilted = episode([track(speed=0), track(x=10, speed=0, yaw=np.pi / 4)], sizes=[(4, 2, 1.5), (2, 2, 1.5)])
    assert tilted["clearance"].value[:, 0] == pytest.approx(10 - 2 - np.sqrt(2), abs=1e-4)
    assert (first_values("clearance", [track(), track(x=3, y=1)]) == 0).all()
    assert first_values("clearance", [track(), track(z=BRIDGE_Z), track(y=20)]) == pytest.approx(18, abs=1e-4)
    assert not episode([track()])["clearance"].valid.any()


def test_margin_deficits():
    """The right edge of the road is 1.75 m from the center of the lane, boxes are 2 m wide."""
    near = first_values("clearance_deficit", [track(), track(y=2.6)])
    assert near == pytest.approx(0.4, abs=1e-4)
    assert (first_values("clearance_deficit", [track(), track(y=3.5)]) == 0).all()
    assert first_values("clearance_deficit", [track(), track(x=3, y=1)]) == pytest.approx(1.0)
    # Pedestrians are no vehicles, the second vehicle is 1.2 m away.
    found = episode([track(), track(y=1.6), track(y=3.2)], types=[1, 2, 1])["clearance_deficit"]
    assert found.valid[:, 0].all() and (found.value[:, 0] == 0).all()
    assert not episode([track()])["clearance_deficit"].valid.any()
    for y, expected in ((0.0, 0.25), (1.0, 0.0), (-0.75, 1.0), (-1.5, 1.75), (-3.0, 2.0)):
        assert first_values("edge_deficit", [track(y=y)]) == pytest.approx(expected, abs=1e-4)


def test_time_since_another_agent_crossed():
    # The other agent clears the crossing, 20 m ahead, after step 5; the first one reaches it at step 18.
    first, other = track(), track(x=20, y=-3, yaw=NORTH)
    times = first_values("post_encroachment_time", [first, other])
    np.testing.assert_allclose(times[: AT[18]], 3)
    assert times[AT[18]] == pytest.approx(1.3) and times.min() == pytest.approx(1.3)
    # The agent that crossed first has no encroachment.
    assert (first_values("post_encroachment_time", [first, other], agent=1) == 3).all()


def test_following_is_no_crossing():
    assert (first_values("post_encroachment_time", [track(), track(x=8)]) == 3).all()
    assert (first_values("post_encroachment_time", [track(), track(x=20, y=-3, yaw=NORTH, z=BRIDGE_Z)]) == 3).all()
    assert first_values("post_encroachment_time", [track(), track(x=1, yaw=NORTH, velocity=(10, 0))]) == pytest.approx(
        0
    )


# Lanes.


def test_speeding_is_measured_against_the_lane():
    for y, speed, yaw, excess in (
        (0, 15, 0, 1.6),
        (3.5, 15, 0, 0),
        (3.5, 21, 0, 1),
        (7, 15, np.pi, 1.6),
        (0, 13.3, 0, 0),
    ):
        found = episode([track(x=-40 if yaw == 0 else 40, y=y, speed=speed, yaw=yaw)])
        assert found["speeding"].value[:, 0] == pytest.approx(excess, abs=1e-4)
        assert found["speeding_time"].value[:, 0].sum() == pytest.approx(3.5 if excess else 0, abs=1e-4)
    # Across the lanes and far from them no limit is known.
    for far in (track(y=-20, yaw=NORTH), track(y=20)):
        assert not episode([far])["speeding"].valid[:5, 0].any()
    assert not episode([track()], types=2)["speeding"].valid.any()


def test_the_speed_limit_on_a_bridge_is_its_own():
    found = episode([track(y=-10, yaw=NORTH, speed=14.4, z=BRIDGE_Z)])["speeding"]
    assert found.valid[:, 0].all() and found.value[:, 0] == pytest.approx(1.0, abs=1e-4)


def test_distance_against_the_lane():
    # Forward in the oncoming lane, 35 steps at 1 m.
    assert total("wrong_way_distance", [track(y=7)]) == pytest.approx(35, abs=1e-3)
    assert total("wrong_way_distance", [track(y=7, yaw=np.pi)]) == 0
    # Backwards along one's own lane, though the heading is right.
    assert total("wrong_way_distance", [track(velocity=(-2, 0))]) == pytest.approx(7, abs=1e-3)
    # Across, at rest, and over the oncoming lane on a bridge.
    assert total("wrong_way_distance", [track(x=30, y=-10, yaw=NORTH)]) == 0
    assert total("wrong_way_distance", [track(y=7, speed=0)]) == 0
    assert total("wrong_way_distance", [track(y=-10, yaw=NORTH, z=BRIDGE_Z)]) == 0


def test_straddling():
    # The border is 1.75 m from the centerline, 0.2 m more are tolerated, and the car reaches 1 m to either side.
    for y, expected in ((0, 0), (0.9, 0), (1.0, 1), (1.75, 1), (2.5, 1), (2.6, 0), (3.5, 0)):
        assert (first_values("straddling", [track(y=y)]) == expected).all(), y
    # A wide load on the centerline straddles; there is no border beyond the last lane or to the oncoming one.
    assert (first_values("straddling", [track()], sizes=(4, 4.0, 1.5)) == 1).all()
    for y in (-1.5, 5.0):
        assert (first_values("straddling", [track(y=y)]) == 0).all()
    # At an angle the corners reach further: sin(30) 2 m + cos(30) 1 m = 1.87 m, with 0.1 m more over the line.
    assert (first_values("straddling", [track(y=0.05, yaw=np.pi / 6, velocity=(1, 0))]) == 0).all()
    assert (first_values("straddling", [track(y=0.15, yaw=np.pi / 6, velocity=(1, 0))]) == 1).all()


def test_off_the_road():
    found = episode([track(y=-1.0)])
    # The right side is at -2, the edge at -1.75.
    assert found["road_edge_distance"].value[:, 0] == pytest.approx(0.25, abs=1e-4)
    assert (found["offroad"].value[:, 0] == 1).all()
    assert (first_values("offroad", [track()]) == 0).all()


def test_road_departures_are_those_of_vehicles_and_cyclists():
    for kind, valid in ((1, True), (2, False), (3, True), (4, False)):
        found = episode([track(y=-1.0)], types=kind)
        assert (found["road_departure"].valid[:, 0] == valid).all()
        assert (found["road_departure"].value[:, 0] == valid).all()
        assert (found["offroad"].value[:, 0] == 1).all()
    # To the right at 1 m/s from the middle of the lane: over the edge after 0.75 m.
    leaves = first_values("road_departure", [track(velocity=(10, -1))])
    np.testing.assert_array_equal(leaves, TIME[1:] > 0.75 + 1e-6)


# Comfort. Valid from step 10 on.


def comfort_values(one) -> np.ndarray:
    found = episode([one])["comfort_violation"]
    np.testing.assert_array_equal(found.valid[:, 0], np.arange(1, NUM_STEPS) >= 10)
    return found.value[AT[10] :, 0]


def test_comfort_on_a_straight_road():
    assert comfort_values(track()) == pytest.approx(0, abs=1e-4)
    assert comfort_values(track(speed=0)) == pytest.approx(0, abs=1e-4)
    assert comfort_values(track(acceleration=2)) == pytest.approx(2 / 2.4, rel=1e-3)
    assert comfort_values(track(speed=20, acceleration=-5)) == pytest.approx(5 / 4.05, rel=1e-3)


def test_comfort_in_a_bend_is_the_centripetal_acceleration():
    # 10 m/s on a radius of 20 m: 5 m/s^2. The velocity in the own frame is constant.
    assert comfort_values(circle(20, 10)) == pytest.approx(5 / 4.89, rel=0.02)
    # 2 m/s on 1.6 m: 2.5 m/s^2, but 1.25 rad/s.
    assert comfort_values(circle(1.6, 2)) == pytest.approx(1.25 / 0.95, rel=0.02)


def test_comfort_of_jerks():
    # Speed 10 + 3 t^2: a longitudinal jerk of 6 m/s^3; the acceleration exceeds its limit from 0.4 s on, which has
    # an effect half a second later: at step 10 it is 6 * 0.5 = 3.
    one = track()
    one |= {"velocity": np.column_stack([10 + 3 * TIME**2, 0 * TIME])}
    assert comfort_values(one)[0] == pytest.approx(6 / 4.13, rel=1e-3)
    assert comfort_values(one)[-1] == pytest.approx(6 * 3.0 / 2.4, rel=1e-3)


def test_comfort_of_logged_motion_is_not_evaluated():
    scenario, agents = make_case([track()])
    for current_step in (0, 4):
        started = dataclasses.replace(scenario, current_step=np.asarray(current_step, np.int32))
        valid = evaluate_episode(started, agents)["comfort_violation"].valid[:, 0]
        np.testing.assert_array_equal(valid, np.arange(1, NUM_STEPS) >= current_step + 10)


def test_comfort_of_turning_on_the_spot():
    turning = track(speed=0) | {"yaw": 3.0 + 0.4 * TIME**2}
    # 0.8 rad/s^2; at step 35 the rate of 3.0 s counts, 2.4 rad/s. The heading passes over pi.
    assert comfort_values(turning)[0] == pytest.approx(0.8 / 1.93, rel=0.02)
    assert comfort_values(turning)[-1] == pytest.approx(2.4 / 0.95, rel=0.02)


# Progress and goals.


def progress(one, log) -> float:
    return total("log_progress", [one], log=[log])


def test_progress_along_the_log():
    log = track()
    assert progress(log, log) == pytest.approx(1, abs=1e-4)
    assert progress(track(speed=5), log) == pytest.approx(0.5, abs=1e-4)
    assert progress(track(speed=30), log) == pytest.approx(1, abs=1e-4)
    assert progress(track(speed=0), log) == 0
    # Forward and back; parallel to the log; perpendicular to it.
    assert progress(track(acceleration=-20 / 3.5), log) == pytest.approx(0, abs=1e-4)
    assert progress(track(y=3.5), log) == pytest.approx(1, abs=1e-4)
    assert progress(track(yaw=NORTH), log) == pytest.approx(0, abs=1e-4)


def test_progress_around_a_loop():
    # One turn in 3.5 s: the log ends at its start.
    loop = circle(5, 2 * np.pi * 5 / 3.5)
    assert progress(loop, loop) == pytest.approx(1, abs=1e-3)
    assert progress(track(speed=0), loop) == pytest.approx(0, abs=1e-3)
    assert progress(circle(5, np.pi * 5 / 3.5), loop) == pytest.approx(0.5, abs=1e-3)


def test_a_parked_log_has_no_progress():
    assert not episode([track()], log=[track(speed=0)])["log_progress"].valid.any()


def test_goals_default_to_the_ends_of_logs():
    found = episode([track()], log=[track()])
    np.testing.assert_allclose(found["goal_distance"].value[:, 0], 35 - np.arange(1, NUM_STEPS), atol=1e-3)
    np.testing.assert_array_equal(found["goal_reached"].value[:, 0], np.arange(1, NUM_STEPS) >= 33)


def test_progress_to_a_goal():
    # One meter per step; away from the goal; on a full circle; perpendicular to the direction of the goal.
    np.testing.assert_allclose(first_values("goal_progress", [track()], log=[track()]), 1.0, atol=1e-4)
    np.testing.assert_allclose(first_values("goal_progress", [track(yaw=np.pi)], log=[track()]), -1.0, atol=1e-4)
    assert total("goal_progress", [circle(5, 2 * np.pi * 5 / 3.5)], log=[track()]) == pytest.approx(0, abs=1e-3)
    found = first_values("goal_progress", [track(yaw=NORTH)], log=[track()])
    np.testing.assert_allclose(found, -np.diff(np.hypot(35, 10 * TIME)), atol=1e-4)
    # An agent that is not valid one step earlier has no progress.
    valid = np.arange(NUM_STEPS)[:, None] % 2 == 0
    assert not episode([track()], log=[track()], valid=valid)["goal_progress"].valid.any()
