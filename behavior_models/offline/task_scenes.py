"""Random scenes of driving tasks: a route, a few other agents with their motion, and a light. On the host.

Positions are in meters, x ahead of the ego at the start. Records begin 1 s before the present and end 15 s after it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.scene import RawRoutes, RawScene, to_scenario
from waymax_sim.datasets.synthetic.curves import arc, arc_length, bezier_curve, line_through
from waymax_sim.datatypes.agents import PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.padding import pad
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.signals import GO, STOP

CURRENT_STEP = 10
NUM_FUTURE_STEPS = 150
RECORD_STEPS = CURRENT_STEP + NUM_FUTURE_STEPS + 1
TIMES = TIME_STEP * (np.arange(RECORD_STEPS) - CURRENT_STEP)
VEHICLE_BOX = (4.6, 1.9, 1.6)  # m
PEDESTRIAN_BOX = (0.6, 0.6, 1.7)  # m
LANE_SPACING = 3.5  # m
POINT_SPACING = 2.0  # m between map points and route samples
MIN_RING_GAP = 0.5  # rad between the centers of the last and the first vehicle of a ring
PASSING_DISTANCE = 1.6  # m from the center of a parked vehicle to a pedestrian that walks along it
LENGTH_BEHIND = 20.0  # m of a lane behind its begin, for the history of the ego
# Array lengths of all scenes, so that all tasks share a program.
AGENT_SLOTS = 8
SIZES = {"N": AGENT_SLOTS, "P": 768, "F": 8, "graph.F": 8, "L": 8, "polylines.G": 128, "polylines.C": 768, "S": 1}
SIZES |= {f"lanes.{axis}": size for axis, size in (("C", 128), ("G", 32), ("Q", 1024), ("L", 1024))}
SIZES |= {f"edges.{axis}": size for axis, size in (("C", 1), ("G", 1), ("Q", 1), ("L", 1))}
SIZES |= {"graph.Z": 2, "M": 1, "R": 160}

Points = Float[np.ndarray, "_ 2"]
Track = Float[np.ndarray, "T 2"]


class Mover(NamedTuple):
    """An agent other than the ego.

    Attributes:
      track: Its logged positions.
      yaw: Heading while it is at rest, rad.
      is_reactive: Whether it follows its logged path by the Intelligent Driver Model instead of its logged speed.
      is_pedestrian: Whether it is a pedestrian.
    """

    track: Track
    yaw: float = 0.0
    is_reactive: bool = False
    is_pedestrian: bool = False


class TaskScene(NamedTuple):
    """A scene of a task before its conversion.

    Attributes:
      route: Center line of the ego, which starts at its first point.
      speed: Initial speed of the ego, m/s.
      movers: The other agents, at most `AGENT_SLOTS` - 1.
      lanes: Further lanes.
      goal: Arc length of the goal on the route, m; infinite for tasks that last to the end of the record.
      limit: Speed limit, m/s.
      stop_line: Arc length of a stop line on the route, m; None without a light.
      red_until: Time at which its light turns from red to green, s.
    """

    route: Points
    speed: float
    movers: list[Mover]
    lanes: tuple[Points, ...] = ()
    goal: float = np.inf
    limit: float = 13.0
    stop_line: float | None = None
    red_until: float = 0.0


SceneGenerator = Callable[[np.random.Generator], TaskScene]


def build_scenario(scene: TaskScene, name: str) -> Scenario:
    """The scenario of a scene, padded to `SIZES`; reactive agents are those of `to_predict`.

    Args:
      scene: The scene.
      name: Id of the scenario.
    """
    end = min(scene.goal, arc_length(scene.route)[-1])
    ego = Mover(drive(scene.route, 0.0, np.full(RECORD_STEPS, end / TIMES[-1])))
    # History with the initial speed; the rest of the log leads to the goal, which policies observe.
    ego.track[:CURRENT_STEP] = drive(scene.route, 0.0, np.full(RECORD_STEPS, scene.speed))[:CURRENT_STEP]
    movers = [ego, *scene.movers]
    xyz, yaw, velocity = _poses(movers)
    velocity[CURRENT_STEP, 0] = scene.speed * np.array([np.cos(yaw[0, 0]), np.sin(yaw[0, 0])])
    yaw[: CURRENT_STEP + 1, 0] = yaw[0, 0]
    size = np.array([PEDESTRIAN_BOX if mover.is_pedestrian else VEHICLE_BOX for mover in movers])
    lines = [_lane(scene.route), *(_lane(lane) for lane in scene.lanes)]
    number = len(movers)
    raw = RawScene(
        scenario_id=name,
        timestamps=TIMES - TIMES[0],
        current_step=CURRENT_STEP,
        agent_id=np.arange(number),
        agent_type=np.array([PEDESTRIAN if mover.is_pedestrian else VEHICLE for mover in movers]),
        xyz=xyz,
        yaw=yaw,
        velocity=velocity,
        size=np.broadcast_to(size, (RECORD_STEPS, number, 3)).copy(),
        valid=np.ones((RECORD_STEPS, number), bool),
        sdc_index=0,
        to_predict=np.array([mover.is_reactive for mover in movers]),
        of_interest=np.zeros(number, bool),
        point_xyz=np.concatenate(lines),
        point_feature=np.repeat(np.arange(len(lines)), [len(line) for line in lines]),
        feature_id=10 + np.arange(len(lines)),
        feature_type=np.full(len(lines), LANE_SURFACE_STREET),
        speed_limit=np.full(len(lines), scene.limit),
        links=np.zeros((0, 3), int),
        **_light(scene),
        routes=_route(scene.route),
    )
    return pad(to_scenario(raw, pad_to_bucket=False), SIZES)


def _poses(movers: list[Mover]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, headings and velocities of the logs."""
    xy = np.stack([mover.track for mover in movers], axis=1)
    velocity = np.gradient(xy, TIME_STEP, axis=0)
    heading = np.arctan2(velocity[..., 1], velocity[..., 0])
    moves = np.hypot(*np.moveaxis(velocity, -1, 0)) > 0.05
    yaw = np.empty(xy.shape[:2])
    for index, mover in enumerate(movers):
        # At rest, the heading is that of the last motion before, or of the first one after.
        steps = np.flatnonzero(moves[:, index])
        known = np.clip(np.searchsorted(steps, np.arange(RECORD_STEPS), side="right") - 1, 0, None)
        yaw[:, index] = heading[steps[known], index] if len(steps) else mover.yaw
    height = np.array([(PEDESTRIAN_BOX if mover.is_pedestrian else VEHICLE_BOX)[2] / 2 for mover in movers])
    z = np.broadcast_to(height, xy.shape[:2])
    return np.concatenate([xy, z[..., None]], axis=-1), yaw, velocity


def _lane(xy: Points) -> Float[np.ndarray, "_ 3"]:
    samples = _resample(xy)
    return np.pad(samples, [(0, 0), (0, 1)])


def _resample(xy: Points) -> Points:
    arc_lengths = arc_length(xy)
    at = np.arange(0.0, arc_lengths[-1] + 1e-6, POINT_SPACING)
    return np.stack([np.interp(at, arc_lengths, column) for column in xy[:, :2].T], axis=-1)


def _route(xy: Points) -> RawRoutes:
    samples = np.pad(_resample(xy), [(0, 0), (0, 1)])
    at = POINT_SPACING * np.arange(len(samples))
    return RawRoutes(samples[None], at[None], np.ones((1, len(samples)), bool), np.ones(1, bool))


def _light(scene: TaskScene) -> dict:
    """Signals of the scene: one light, or one that is never observed."""
    has_light = scene.stop_line is not None
    at = drive(scene.route, scene.stop_line or 0.0, np.zeros(RECORD_STEPS))
    state = np.where(scene.red_until > TIMES, STOP, GO)
    return {
        "signal_lane_id": np.array([10]),
        "signal_state": state[:, None],
        "signal_stop_point": np.pad(at, [(0, 0), (0, 1)])[:, None],
        "signal_valid": np.full((RECORD_STEPS, 1), has_light),
    }


def drive(xy: Points, start: float, speed: Float[np.ndarray, " T"]) -> Track:
    """Positions along a path; beyond its ends they continue straight.

    Args:
      xy: The path.
      start: Arc length at the present, m.
      speed: Speed at each step, m/s.
    """
    arc_lengths = arc_length(xy)
    at = np.concatenate([[0.0], np.cumsum(speed[:-1] * TIME_STEP)])
    at = start + at - at[CURRENT_STEP]
    inside = np.clip(at, 0.0, arc_lengths[-1])
    position = np.stack([np.interp(inside, arc_lengths, column) for column in xy[:, :2].T], axis=-1)
    first, last = xy[1, :2] - xy[0, :2], xy[-1, :2] - xy[-2, :2]
    ends = np.where((at < 0)[:, None], first / np.hypot(*first), last / np.hypot(*last))
    return position + (at - inside)[:, None] * ends


def straight_line(x: float, end: float, y: float = 0.0) -> Points:
    """A line along x from one coordinate to another, in its direction.

    Args:
      x: Start, m.
      end: End, m.
      y: Lateral position, m.
    """
    return line_through((x, y), (end, y))[:, :2]


def _walk(rng: np.random.Generator, mean: float, deviation: float = 1.5, low: float = 0.0) -> Float[np.ndarray, " T"]:
    """Speeds of an Ornstein-Uhlenbeck process around a mean (m/s) with a correlation time of 4 s."""
    speed, rows = mean, []
    for noise in rng.normal(0.0, deviation * np.sqrt(2 * TIME_STEP / 4.0), RECORD_STEPS):
        rows.append(max(speed, low))
        speed = max(speed + (mean - speed) * TIME_STEP / 4.0 + noise, low)
    return np.array(rows)


def _brake(speed: np.ndarray, begin: float, end: float, rate: float) -> np.ndarray:
    """Speeds with a deceleration `rate` (m/s^2) from one time (s) to another and an acceleration of 2 m/s^2 after it.

    Args:
      speed: Speeds at each step, m/s.
      begin: Begin, s.
      end: End, s.
      rate: Deceleration, m/s^2.
    """
    decrease = rate * np.clip(TIMES - begin, 0.0, end - begin)
    increase = 2.0 * np.clip(TIMES - end, 0.0, None)
    return np.clip(np.minimum(speed, np.maximum(speed - decrease, 0.0) + increase), 0.0, None)


def following(rng: np.random.Generator) -> TaskScene:
    """A leader with varying speed, which brakes hard in half of the scenes."""
    mean = rng.uniform(7.0, 11.0)
    speed = _walk(rng, mean, low=2.0)
    if rng.random() < 0.5:
        begin = rng.uniform(2.0, 10.0)
        speed = _brake(speed, begin, begin + rng.uniform(1.5, 3.0), rng.uniform(3.0, 5.0))
    lane = straight_line(-LENGTH_BEHIND, 300.0)
    leader = Mover(drive(lane, LENGTH_BEHIND + rng.uniform(18.0, 35.0), speed))
    return TaskScene(straight_line(0.0, 240.0), rng.uniform(7.0, 12.0), [leader])


def cut_in(rng: np.random.Generator) -> TaskScene:
    """A slower vehicle changes from the left lane to that of the ego, closely ahead of it."""
    speed, begin, duration = rng.uniform(9.0, 12.0), rng.uniform(0.5, 2.5), rng.uniform(2.0, 3.5)
    other = np.full(RECORD_STEPS, speed - rng.uniform(1.0, 3.0))
    other = _brake(other, begin + duration, begin + duration + rng.uniform(0.5, 2.0), rng.uniform(0.0, 3.0))
    track = drive(straight_line(-LENGTH_BEHIND, 300.0), LENGTH_BEHIND + rng.uniform(13.0, 22.0), other)
    track[:, 1] = LANE_SPACING * (1.0 - _smooth_step((TIMES - begin) / duration))
    lane = straight_line(-LENGTH_BEHIND, 240.0, LANE_SPACING)
    return TaskScene(straight_line(0.0, 240.0), speed, [Mover(track)], (lane,))


def _smooth_step(value: np.ndarray) -> np.ndarray:
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def merge(rng: np.random.Generator) -> TaskScene:
    """An acceleration lane that joins a lane with vehicles, which react to others ahead of them."""
    x = np.arange(0.0, 240.0, 1.0)
    start = rng.uniform(35.0, 50.0)
    route = np.stack([x, -LANE_SPACING * (1.0 - _smooth_step((x - start) / 35.0))], axis=-1)
    main = straight_line(-80.0, 240.0)
    speed, at, movers = rng.uniform(8.0, 11.0), rng.uniform(-45.0, -30.0), []
    while len(movers) < 5:
        movers.append(Mover(drive(main, at + 80.0, np.full(RECORD_STEPS, speed)), is_reactive=True))
        at += rng.uniform(11.0, 32.0)
    return TaskScene(route, rng.uniform(6.0, 10.0), movers, (main,), goal=120.0)


def left_turn(rng: np.random.Generator) -> TaskScene:
    """A left turn across oncoming vehicles, which have the right of way and do not yield."""
    before, after = line_through((0.0, 0.0), (30.0, 0.0)), line_through((40.0, 10.0), (40.0, 90.0))
    bend = arc(np.array([30.0, 10.0]), 10.0, -np.pi / 2, 0.0)
    route = np.concatenate([before, bend[1:], after[1:]])[:, :2]
    oncoming = straight_line(160.0, -80.0, LANE_SPACING)
    movers, time, speed = [], rng.uniform(1.0, 4.0), rng.uniform(7.0, 10.0)
    for _ in range(5):
        # Time of arrival at the conflict, 122 m from the start of the lane.
        movers.append(Mover(drive(oncoming, 122.0 - speed * time, np.full(RECORD_STEPS, speed)), np.pi))
        time += rng.uniform(1.6, 5.5)
    return TaskScene(route, rng.uniform(5.0, 8.0), movers, (oncoming,), goal=75.0, limit=10.0)


def roundabout(rng: np.random.Generator) -> TaskScene:
    """The entry of a roundabout with circulating vehicles, which have the right of way and do not yield."""
    center, radius, enter, leave = np.array([60.0, 4.0]), 15.0, np.deg2rad(215.0), np.deg2rad(325.0)
    ring_part = arc(center, radius, enter, leave)
    ahead = np.array([1.0, 0.0])
    tangent_in, tangent_out = np.array([-np.sin(enter), np.cos(enter)]), np.array([-np.sin(leave), np.cos(leave)])
    entry = bezier_curve(np.zeros(3), ahead, ring_part[0], tangent_in)
    exit_ = bezier_curve(ring_part[-1], tangent_out, np.array([120.0, 0.0, 0.0]), ahead)
    route = np.concatenate([entry, ring_part[1:], exit_[1:]])[:, :2]
    ring = arc(center, radius, 0.0, 2 * np.pi)[:, :2]
    rounds = arc(center, radius, 0.0, 8 * np.pi)[:, :2]
    angle, movers = rng.uniform(0.0, 2 * np.pi), []
    # The last vehicle is behind the first one.
    last, speed = angle + 2 * np.pi - MIN_RING_GAP, rng.uniform(5.0, 7.0)
    for _ in range(int(rng.integers(2, 5))):
        movers.append(Mover(drive(rounds, 2 * np.pi * radius + angle * radius, np.full(RECORD_STEPS, speed))))
        angle = min(angle + rng.uniform(1.0, 2.2), last)
    return TaskScene(route, rng.uniform(5.0, 8.0), movers, (ring,), goal=95.0, limit=9.0)


def red_light(rng: np.random.Generator) -> TaskScene:
    """A light that turns green, with a stopped vehicle at its line in half of the scenes."""
    line, green = rng.uniform(35.0, 60.0), rng.uniform(3.0, 8.0)
    lane, movers = straight_line(-LENGTH_BEHIND, 260.0), []
    if rng.random() < 0.5:
        start = green + rng.uniform(0.5, 1.5)
        speed = np.clip(1.6 * (TIMES - start), 0.0, 11.0)
        movers.append(Mover(drive(lane, LENGTH_BEHIND + line - 3.0, speed)))
    goal = line + 45.0
    return TaskScene(straight_line(0.0, 240.0), rng.uniform(7.0, 12.0), movers, (), goal, 13.0, line, green)


def pedestrians(rng: np.random.Generator) -> TaskScene:
    """A parking aisle between parked vehicles, with crossing pedestrians that do not yield."""
    movers, parked = [], np.array([12.0, 32.0, 52.0]) + rng.uniform(-7.0, 7.0, 3)
    for x in parked:
        side = rng.choice([-1.0, 1.0])
        movers.append(Mover(np.broadcast_to([x, side * 4.2], (RECORD_STEPS, 2)), np.pi / 2))
    for x in _avoid(rng.uniform(14.0, 55.0, 4), parked):
        side, begin, speed = rng.choice([-1.0, 1.0]), rng.uniform(-1.0, 8.0), rng.uniform(0.9, 1.7)
        walked = speed * np.clip(TIMES - begin, 0.0, 10.0 / speed)
        track = np.stack([np.full(RECORD_STEPS, x), side * (5.0 - walked)], axis=-1)
        movers.append(Mover(track, -side * np.pi / 2, is_pedestrian=True))
    return TaskScene(straight_line(0.0, 120.0), rng.uniform(3.0, 5.0), movers, goal=70.0, limit=7.0)


def _avoid(x: Float[np.ndarray, " n"], obstacles: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Positions moved to a distance of at least `PASSING_DISTANCE` from the nearest obstacle."""
    nearest = obstacles[np.argmin(np.abs(x[:, None] - obstacles), axis=1)]
    return nearest + np.where(x < nearest, -1.0, 1.0) * np.maximum(np.abs(x - nearest), PASSING_DISTANCE)


def stopped_car(rng: np.random.Generator) -> TaskScene:
    """A vehicle that is stopped in the lane of the ego, and one or two oncoming vehicles on the next lane."""
    x = rng.uniform(32.0, 55.0)
    movers = [Mover(np.broadcast_to([x, rng.uniform(-0.7, -0.2)], (RECORD_STEPS, 2)))]
    oncoming = straight_line(260.0, -80.0, LANE_SPACING)
    time, speed = rng.uniform(0.0, 4.0), rng.uniform(7.0, 10.0)
    for _ in range(int(rng.integers(1, 3))):
        movers.append(Mover(drive(oncoming, 260.0 - x - speed * time, np.full(RECORD_STEPS, speed)), np.pi))
        time += rng.uniform(1.5, 3.0)
    return TaskScene(straight_line(0.0, 180.0), rng.uniform(6.0, 9.0), movers, (oncoming,), goal=100.0, limit=10.0)


def narrow_passage(rng: np.random.Generator) -> TaskScene:
    """Two narrow gaps between parked vehicles, at different lateral positions."""
    movers, x = [], rng.uniform(22.0, 32.0)
    center = float(rng.choice([-1.0, 0.0, 1.0, 2.0]))
    for _ in range(2):
        half = (rng.uniform(2.9, 3.2) + VEHICLE_BOX[1]) / 2
        for side in (-1.0, 1.0):
            at = x + rng.uniform(-0.5, 0.5), center + rng.uniform(-0.1, 0.1) + side * half
            movers.append(Mover(np.broadcast_to(at, (RECORD_STEPS, 2))))
        x += rng.uniform(24.0, 32.0)
        center = float(np.clip(center + rng.choice([-1.0, 1.0]), -1.0, 2.0))
    return TaskScene(straight_line(0.0, 140.0), rng.uniform(4.0, 7.0), movers, goal=80.0, limit=9.0)
