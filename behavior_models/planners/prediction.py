"""What the ego expects: how others move on, and where it gets itself. Planners share it."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.planners.reference_path import Course, course_of, place_at, project
from behavior_models.traffic.car_following import FAR, HARDEST_BRAKING
from behavior_models.traffic.idm import AT_LINE, CLOSED, CLOSING
from behavior_models.traffic.route_following import AT_REST
from behavior_models.traffic.swept_path import LEVEL, ROOM, SLOPE
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation
from waymax_sim.pytree import Array, pytree, take

# Steps that are looked ahead: 4 s at 0.1 s. Every so many of them others are compared with.
NUM_STEPS, STRIDE = 40, 2
# Others that are looked at: those that may soon be near, by distance less what they drive in this time (s).
NUM_OTHERS, REACH = 24, 3.0
# An ego that can stop before a light that closes by braking like this does so (m/s^2).
COMFORTABLE = 3.0
# An ego slower than this before a stop sign has stopped (m/s).
HALTED = 0.4
BICYCLE = Bicycle(max_acceleration=HARDEST_BRAKING)

Memory = TypeVar("Memory")


class Others(NamedTuple):
    """Agents near the ego: their boxes now (m), and their velocity (m/s), which they keep."""

    x: Float[Array, " O"]
    y: Float[Array, " O"]
    u: Float[Array, " O"]
    v: Float[Array, " O"]
    cos: Float[Array, " O"]
    sin: Float[Array, " O"]
    long: Float[Array, " O"]
    wide: Float[Array, " O"]
    present: Bool[Array, " O"]


class Strip(NamedTuple):
    """Others on the course of the ego, over the steps that count.

    Attributes:
      rear: Arc length at which the box begins, m.
      middle: Arc length of its middle, m.
      lateral: Offset of its middle to the left, m.
      reach: Half of what it takes up across, m.
      speed: Along the course, m/s.
    """

    rear: Float[Array, "T O"]
    middle: Float[Array, "T O"]
    lateral: Float[Array, "T O"]
    reach: Float[Array, "T O"]
    speed: Float[Array, "T O"]


@pytree
class Outlook:
    """What one agent, the ego, has to reckon with.

    Attributes:
      past: The ego one step ago and now, [2].
      size: Its length, width and height, m.
      dt: Time step, s.
      course: Where it is to go.
      arc_length: Where it is on the course, m.
      others: Who is near.
      strip: Others on the course.
      line: The stop line to halt at, a row of the stop lines; -1 for none.
      halt: Its arc length, m; infinite for none.
    """

    past: AgentState
    size: Float[Array, " 3"]
    dt: Float[Array, ""]
    course: Course
    arc_length: Float[Array, ""]
    others: Others
    strip: Strip
    line: Int[Array, ""]
    halt: Float[Array, ""]

    @property
    def now(self) -> AgentState:
        """The ego now."""
        return take(self.past, 1)

    @property
    def speed(self) -> Float[Array, ""]:
        """Speed of the ego along its heading, m/s."""
        return geometry.dot(self.now.velocity, geometry.heading(self.now.yaw))


class Rollouts(NamedTuple):
    """Where K candidates for the next T steps lead.

    Attributes:
      agents: The ego after each step, [T, K].
      arc_length: Along the course, m.
      lateral: Offset from the course to the left, m.
      value: Accelerations (m/s^2) and curvatures (1/m).
    """

    agents: AgentState
    arc_length: Float[Array, "T K"]
    lateral: Float[Array, "T K"]
    value: Float[Array, "T K 2"]


class Moment(NamedTuple):
    """The ego at one step of K rollouts: signed speed (m/s), and its place on the course (m).

    Attributes:
      agents: The ego, [K].
      speed: Along its heading.
      arc_length: Of its middle.
      lateral: Offset to the left.
    """

    agents: AgentState
    speed: Float[Array, " K"]
    arc_length: Float[Array, " K"]
    lateral: Float[Array, " K"]


def outlook_of(observation: Observation, ego: Int[Array, ""], served: Int[Array, ""]) -> Outlook:
    """The outlook of an agent that has already stopped at the stop line `served` (-1 for none)."""
    past = take(observation.history, (slice(-2, None), ego))
    size, course = observation.info.size[ego], course_of(observation, ego)
    now = take(past, 1)
    arc_length = project(course, *now.xyz[:2])[0]
    others = _near(observation, ego)
    speed = geometry.dot(now.velocity, geometry.heading(now.yaw))
    line, halt = _halt(observation, course, arc_length, speed, size[0], served)
    return Outlook(
        past=past,
        size=size,
        dt=observation.dt,
        course=course,
        arc_length=arc_length,
        others=others,
        strip=_on_course(course, others, observation.dt),
        line=line,
        halt=halt,
    )


def times(dt: Float[Array, ""]) -> Float[Array, " T"]:
    """Times from now that others are compared with (s), now included."""
    return dt * jnp.arange(0, NUM_STEPS + 1, STRIDE, dtype=jnp.float32)


def _near(observation: Observation, ego: Int[Array, ""]) -> Others:
    now, size = observation.agents, observation.info.size
    offset = now.xyz - now.xyz[ego][None]
    distance, speed = geometry.norm(offset[:, :2]), geometry.norm(now.velocity)
    number = jnp.arange(distance.shape[0])
    seen = now.valid & (number != ego) & (jnp.abs(offset[:, 2]) < LEVEL + SLOPE * distance)
    seen = seen & jnp.all(size[:, :2] != 0, axis=-1)
    nearness = jnp.where(seen, REACH * speed - distance, -jnp.inf)
    nearness, index = jax.lax.top_k(jax.lax.stop_gradient(nearness), min(NUM_OTHERS, number.shape[0]))
    chosen, half = take(now, index), jnp.abs(size[index]) / 2
    # Recorded agents at rest have speeds that are noise.
    velocity = jnp.where((speed[index] > AT_REST)[:, None], chosen.velocity, 0.0)
    return Others(
        x=chosen.xyz[:, 0],
        y=chosen.xyz[:, 1],
        u=velocity[:, 0],
        v=velocity[:, 1],
        cos=jnp.cos(chosen.yaw),
        sin=jnp.sin(chosen.yaw),
        long=half[:, 0],
        wide=half[:, 1],
        present=nearness > -jnp.inf,
    )


def _on_course(course: Course, others: Others, dt: Float[Array, ""]) -> Strip:
    time = times(dt)[:, None]
    x, y = others.x[None] + time * others.u[None], others.y[None] + time * others.v[None]
    middle, lateral, cos, sin = project(course, x, y)
    ahead = jnp.abs(cos * others.cos[None] + sin * others.sin[None])
    aside = jnp.abs(cos * others.sin[None] - sin * others.cos[None])
    return Strip(
        rear=middle - ahead * others.long[None] - aside * others.wide[None],
        middle=jnp.where(others.present[None], middle, -FAR),
        lateral=lateral,
        reach=aside * others.long[None] + ahead * others.wide[None] + ROOM,
        speed=cos * others.u[None] + sin * others.v[None],
    )


def _halt(
    observation: Observation,
    course: Course,
    arc_length: Float[Array, ""],
    speed: Float[Array, ""],
    length: Float[Array, ""],
    served: Int[Array, ""],
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The next stop line on the course with a light at which the ego can still stop, or an unserved stop sign."""
    if not course.stop.shape[0]:
        # The minimum over no stop lines has no index; the number of lines is static, so other maps are unaffected.
        return jnp.asarray(-1, jnp.int32), jnp.asarray(jnp.inf, jnp.float32)
    distance = course.stop - arc_length
    state = jnp.where(observation.signals.valid, observation.signals.state, 0)
    state = jnp.where(course.light >= 0, jnp.append(state, 0)[course.light], 0)
    needed = speed**2 / (2.0 * jnp.maximum(distance - length / 2, 0.1))
    closed = jnp.isin(state, jnp.asarray(CLOSED)) & (needed < HARDEST_BRAKING)
    closing = jnp.isin(state, jnp.asarray(CLOSING)) & (needed < COMFORTABLE)
    number = jnp.arange(distance.shape[0], dtype=jnp.int32)
    sign = course.stop_sign & (distance > length / 2) & (number != served)
    halts = (distance > 0) & (closed | closing | sign)
    distance = jnp.where(halts, distance, jnp.inf)
    line = jnp.argmin(distance).astype(jnp.int32)
    some = jnp.any(halts)
    return jnp.where(some, line, -1), jnp.where(some, course.stop[line], jnp.inf)


def serve(outlook: Outlook, served: Int[Array, ""]) -> Int[Array, ""]:
    """The last stop line that the ego has stopped at."""
    room = outlook.halt - outlook.arc_length - outlook.size[0] / 2
    stands = (jnp.abs(outlook.speed) < HALTED) & (room < AT_LINE)
    return jnp.where((outlook.line >= 0) & stands, outlook.line, served)


def roll(
    outlook: Outlook,
    decide: Callable[[Moment, Memory, Int[Array, ""]], tuple[Float[Array, "K 2"], Memory]],
    memory: Memory,
    num: int,
) -> Rollouts:
    """Rolls `num` candidates forward with the bicycle.

    Args:
      outlook: From where.
      decide: From the moment, a memory of its own and the step (0 is now) to acceleration and curvature, and the
        memory after it.
      memory: That of the first step.
      num: K.
    """
    agents = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), outlook.now)
    arc_length = jnp.broadcast_to(outlook.arc_length, (num,))

    def step(loop, index):
        moment, memory = loop
        value, memory = decide(moment, memory, index)
        agents = BICYCLE.apply(moment.agents, value, outlook.dt)
        moment = _moment(outlook.course, agents, moment.arc_length + moment.speed * outlook.dt)
        return (moment, memory), Rollouts(agents, moment.arc_length, moment.lateral, value)

    first = _moment(outlook.course, agents, arc_length)
    return jax.lax.scan(step, (first, memory), jnp.arange(NUM_STEPS, dtype=jnp.int32))[1]


def _moment(course: Course, agents: AgentState, near: Float[Array, " K"]) -> Moment:
    """Where agents are on the course, who are known to be near some arc lengths (m)."""
    place = place_at(course, near)
    off_x, off_y = agents.xyz[:, 0] - place.x, agents.xyz[:, 1] - place.y
    speed = geometry.dot(agents.velocity, geometry.heading(agents.yaw))
    ahead, aside = place.cos * off_x + place.sin * off_y, place.cos * off_y - place.sin * off_x
    return Moment(agents, speed, near + ahead, aside)


def replayed(outlook: Outlook, value: Float[Array, "T K 2"]) -> Rollouts:
    """Rollouts of given accelerations (m/s^2) and curvatures (1/m)."""
    return roll(outlook, lambda _, memory, step: (value[step], memory), (), value.shape[1])
