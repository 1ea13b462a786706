"""Rollouts by hand for pages of the viewer, and the decoding of pages."""

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
from waymax_sim.pytree import tree_index


def busy_scene(**changes) -> Scenario:
    """A synthetic scene with padding, in NumPy arrays; its sdc is always valid."""
    raw = busy_raw_scene()
    raw.valid[:, 0] = True
    return jax.tree.map(np.asarray, to_scenario(dataclasses.replace(raw, **changes), pad_to_bucket=True))


def shifted_trace(scenario: Scenario, num_steps: int, lateral_step: float = 0.2) -> Trace:
    """The log after the current step, but the sdc moves sideways by `lateral_step` (m) per step; it overlaps in entries
    3 to 5."""
    scenario = jax.tree.map(np.asarray, scenario)
    steps = int(scenario.current_step) + 1 + np.arange(num_steps)
    sdc = int(scenario.agents.is_sdc.argmax())
    agents = jax.tree.map(np.copy, tree_index(scenario.log, steps))
    offset = lateral_step * (1 + np.arange(num_steps, dtype=np.float32))
    agents.xyz[:, sdc, 1] += np.where(agents.valid[:, sdc], offset, 0)
    overlap, divergence = np.zeros((2, *agents.valid.shape), np.float32)
    overlap[3:6, sdc] = 1.0
    divergence[:, sdc] = np.abs(offset)
    controller = np.zeros(scenario.num_agents, np.int32)
    controller[sdc] = POLICY
    last_two = tree_index(agents, slice(-2, None))
    return Trace(
        step=steps.astype(np.int32),
        active=np.ones(num_steps, bool),
        agents=agents,
        metrics={
            "overlap": MetricValue(value=overlap, valid=agents.valid),
            "log_divergence": MetricValue(value=divergence, valid=agents.valid),
            "route_progression": MetricValue(value=np.linspace(0, 1, num_steps, dtype=np.float32), valid=offset != 0),
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


def decode_page(page: str) -> dict:
    """The record of a page."""
    (text,) = re.findall(r'<script id="scene" type="text/plain">([A-Za-z0-9+/=]+)</script>', page)
    return json.loads(zlib.decompress(base64.b64decode(text)))


def numbers(differences: list[int], unit: float) -> np.ndarray:
    return np.cumsum(differences) * unit


def flags(changes: list[int], length: int) -> np.ndarray:
    return (np.arange(length)[:, None] >= np.asarray(changes)).sum(axis=-1) % 2 == 1
