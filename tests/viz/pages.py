"""Rollouts by hand for pages of the viewer, and what reads a page back."""

import base64
import dataclasses
import json
import re
import zlib

import jax
import numpy as np

from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import POLICY, State
from waymax_sim.env import Trace
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import take


def busy_scene(**changes) -> Scenario:
    """A made-up scene with padding, in NumPy arrays; its sdc is always there."""
    raw = busy_raw_scene()
    raw.valid[:, 0] = True
    return jax.tree.map(np.asarray, to_scenario(dataclasses.replace(raw, **changes), bucketed=True))


def made_trace(scenario: Scenario, num_steps: int, aside: float = 0.2) -> Trace:
    """The log from now on, but the sdc moves aside by so many metres per step; it overlaps in entries 3 to 5."""
    scenario = jax.tree.map(np.asarray, scenario)
    steps = int(scenario.current_step) + 1 + np.arange(num_steps)
    sdc = int(scenario.agents.is_sdc.argmax())
    agents = jax.tree.map(np.copy, take(scenario.log, steps))
    moved = aside * (1 + np.arange(num_steps, dtype=np.float32))
    agents.xyz[:, sdc, 1] += np.where(agents.valid[:, sdc], moved, 0)
    overlap, divergence = np.zeros((2, *agents.valid.shape), np.float32)
    overlap[3:6, sdc] = 1.0
    divergence[:, sdc] = np.abs(moved)
    controller = np.zeros(scenario.num_agents, np.int32)
    controller[sdc] = POLICY
    last_two = take(agents, slice(-2, None))
    return Trace(
        step=steps.astype(np.int32),
        active=np.ones(num_steps, bool),
        agents=agents,
        metrics={
            "overlap": MetricValue(value=overlap, valid=agents.valid),
            "log_divergence": MetricValue(value=divergence, valid=agents.valid),
            "route_progression": MetricValue(value=np.linspace(0, 1, num_steps, dtype=np.float32), valid=moved != 0),
        },
        reward=None,
        terminated=None,
        ended=None,
        invalid_action=None,
        actions=None,
        observations=None,
        final=State(
            step=np.asarray(steps[-1]),
            history=last_two,
            controller=controller,
            ended=np.zeros(len(controller), bool),
            goal_reached=np.zeros(len(controller), bool),
            key=jax.random.key(0),
        ),
    )


def packed_in(page: str) -> dict:
    """The record that a page holds."""
    (text,) = re.findall(r'<script id="scene" type="text/plain">([A-Za-z0-9+/=]+)</script>', page)
    return json.loads(zlib.decompress(base64.b64decode(text)))


def numbers(differences: list[int], unit: float) -> np.ndarray:
    return np.cumsum(differences) * unit


def flags(changes: list[int], length: int) -> np.ndarray:
    return (np.arange(length)[:, None] >= np.asarray(changes)).sum(axis=-1) % 2 == 1
