"""Ways of following the lane: beside its middle or on it, fast or slow, at a distance from whoever is ahead."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.planners.prediction import COMFORTABLE, STRIDE, Moment, Outlook, Rollouts, roll
from behavior_models.planners.reference_path import SPACING, Course, along, place_at
from behavior_models.traffic.car_following import (
    FAR,
    HARDEST_ACCELERATION,
    HARDEST_BRAKING,
    Drivers,
    bounded_interaction,
    free_road,
)
from behavior_models.traffic.idm import ANTICIPATION, FURTHEST_AIM, NEAREST_AIM, SHARPEST, SIDEWAYS, STEER_AHEAD
from behavior_models.traffic.route_following import comfortable_speed
from waymax_sim import geometry
from waymax_sim.pytree import Array, take

# Offsets from the middle of the lane to the left (m), and parts of the speed limit.
OFFSETS, FRACTIONS = (0.0, 1.0, -1.0), (1.0, 0.8, 0.6, 0.4, 0.2)
NUM_PROPOSALS = len(OFFSETS) * len(FRACTIONS)
# What is changed per second at most: acceleration (m/s^2), unless there is need, and rate of turning (rad/s).
JERK, YAW_ACCELERATION = 3.5, 1.5
# Below this speed recorded headings tell no curvature, and steering is as quick as at it (m/s).
SLOW = 2.0
# Lines do not drive away: less time than to others will do (s).
LINE_HEADWAY = 0.5
# Who is further beside where it wants to be than this steers for a point that is nearer by so much (m).
SIDESTEP = 1.0


def proposals(outlook: Outlook) -> Rollouts:
    """Rolls out each speed on each offset, the fastest first and the offsets in turn.

    Each follows the course by pure pursuit and others as the Intelligent Driver Model does, where constant velocity
    will have taken them by then.
    """
    offset = jnp.tile(jnp.asarray(OFFSETS), len(FRACTIONS))
    suits = jnp.repeat(suitable_speeds(outlook.course), len(OFFSETS), axis=0)
    driver, half = driver_of_ego(), outlook.size[:2] / 2
    to_line = dataclasses.replace(driver, headway=jnp.asarray(LINE_HEADWAY))

    def decide(moment: Moment, last: Float[Array, "K 2"], step: Int[Array, ""]):
        speed = jnp.maximum(moment.speed, 0.0)
        at = moment.arc_length + ANTICIPATION * speed
        desired = jax.vmap(along)(suits, at)
        free = jnp.maximum(free_road(speed, desired, driver), -driver.braking)
        # Others where they will be.
        strip = take(outlook.strip, step // STRIDE)
        ahead = (strip.middle[None] > moment.arc_length[:, None]) & (
            jnp.abs(strip.lateral[None] - offset[:, None]) < half[1] + strip.reach[None]
        )
        gap = jnp.where(ahead, strip.rear[None] - moment.arc_length[:, None] - half[0], FAR)
        braking = jnp.max(bounded_interaction(speed[:, None], gap, speed[:, None] - strip.speed[None], driver), axis=-1)
        line = jnp.minimum(outlook.halt - moment.arc_length - half[0] + 1.0, FAR)
        braking = jnp.maximum(braking, bounded_interaction(speed, line, speed, to_line))
        # What suits the road is no need to brake harder than is comfortable, on top of others ahead.
        wanted = jnp.maximum(free - braking, -jnp.maximum(braking, COMFORTABLE))
        value = jnp.stack([wanted, _steer(outlook.course, moment, speed, offset)], axis=-1)
        value = smooth(value, last, speed, outlook.dt)
        return value, value

    first = jnp.broadcast_to(last_action(outlook)[None], (NUM_PROPOSALS, 2))
    return roll(outlook, decide, first, NUM_PROPOSALS)


def driver_of_ego() -> Drivers:
    """How the ego follows others, as in the paper of PDM."""
    values = (1.5, COMFORTABLE, 1.5, 1.5, 2.5, 1.0, 45.0)
    return Drivers(*(jnp.asarray(value, jnp.float32) for value in values))


def last_action(outlook: Outlook) -> Float[Array, " 2"]:
    """Acceleration (m/s^2) and curvature (1/m) that led to the present moment; zero where that cannot be told."""
    past, known = outlook.past, jnp.all(outlook.past.valid)
    speed = geometry.dot(past.velocity, geometry.heading(past.yaw))
    acceleration = jnp.clip((speed[1] - speed[0]) / outlook.dt, -HARDEST_BRAKING, HARDEST_ACCELERATION)
    way = jnp.sum(speed) / 2 * outlook.dt
    fast = way > SLOW * outlook.dt
    turn = geometry.wrap_angle(past.yaw[1] - past.yaw[0]) / jnp.where(fast, way, 1.0)
    curvature = jnp.where(fast, jnp.clip(turn, -SHARPEST, SHARPEST), 0.0)
    return jnp.where(known, jnp.stack([acceleration, curvature]), 0.0)


def smooth(
    value: Float[Array, "K 2"], last: Float[Array, "K 2"], speed: Float[Array, " K"], dt: Float[Array, ""]
) -> Float[Array, "K 2"]:
    """Wanted accelerations and curvatures, changed gently from the last ones; braking in need is not held back."""
    low = jnp.where(value[:, 0] < -COMFORTABLE, -HARDEST_BRAKING, last[:, 0] - JERK * dt)
    high = jnp.maximum(last[:, 0], -COMFORTABLE) + JERK * dt
    acceleration = jnp.clip(value[:, 0], low, jnp.minimum(high, HARDEST_ACCELERATION))
    turn = YAW_ACCELERATION * dt / jnp.maximum(speed, SLOW)
    return jnp.stack([acceleration, jnp.clip(value[:, 1], last[:, 1] - turn, last[:, 1] + turn)], axis=-1)


def suitable_speeds(course: Course) -> Float[Array, "V R"]:
    """Speeds along the course (m/s): parts of the limit, less in bends, for which the ego brakes in time."""
    limit = jnp.asarray(FRACTIONS)[:, None] * course.speed_limit[None]
    return comfortable_speed(limit, course.curvature[None], driver_of_ego(), SPACING)


def _steer(course: Course, moment: Moment, speed: Float[Array, " K"], offset: Float[Array, " K"]) -> Float[Array, " K"]:
    """Curvature (1/m) of the arc through a point ahead beside the course (pure pursuit, Coulter 1992)."""
    aim = jnp.clip(STEER_AHEAD * speed, NEAREST_AIM, FURTHEST_AIM)
    place = place_at(course, moment.arc_length + aim)
    offset = moment.lateral + jnp.clip(offset - moment.lateral, -SIDESTEP, SIDESTEP)
    target = jnp.stack([place.x - offset * place.sin, place.y + offset * place.cos], axis=-1)
    seen = geometry.to_frame(target, moment.agents.xyz[:, :2], moment.agents.yaw)
    limit = jnp.minimum(SHARPEST, SIDEWAYS / jnp.maximum(speed, 1.0) ** 2)
    return jnp.clip(2.0 * seen[:, 1] / jnp.maximum(geometry.dot(seen, seen), 1.0), -limit, limit)
