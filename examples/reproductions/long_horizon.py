"""Rollouts of a minute with tens of agents that appear and leave, and the consistency of their driving style.

    python -m examples.reproductions.long_horizon --out runs/long [--quick] [--policy decoder=runs/decoder/policy]

On `long_scenes`, per scene the correlation over agents of the mean time headway, and of the mean ratio of speed and
limit, in the first and in the last 20 s: of the traffic that generated the scene, of rule-based drivers with persistent
parameters, of the same with parameters that are drawn again halfway (control), and of policies; a scene decoder is also
simulated without the tokens of its past (control). Rows in the folder are used again.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Int, Key

from behavior_models.baselines.log_replay import LogReplay
from behavior_models.scene_decoder.policy import DecoderPolicy
from behavior_models.traffic.idm import IDM
from examples.reproductions.waymax_common import Criterion, effect_share, table_line
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic.long_scenes import LongSceneParams, corridor, long_scene
from waymax_sim.datatypes.padding import common_lengths, pad
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, Observation, Policy, rollout
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.metrics.long_horizon import LONG_HORIZON_METRICS, StyleParams, style_consistency
from waymax_sim.plugins import resolve_policy
from waymax_sim.pytree import Array, pytree
from waymax_sim.results_dir import ResultsDir

# Seed of the scenes.
TEST = 901
# Step at which no scene arrives.
NEVER = 10**6
CONTROL_SUFFIX = " without its past (control)"
NAMES = tuple(metric.name for metric in LONG_HORIZON_METRICS)


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes of the experiment.

    Attributes:
      out: Folder of the rows.
      quick: One short scene, to see that all parts run.
      scenes: Number of scenes.
      policy: Further policies, as a name or folder, or as NAME=FOLDER.
    """

    out: Path
    quick: bool = False
    scenes: int = 10
    policy: tuple[str, ...] = ()


@pytree
class RedrawnIDM(Policy):
    """Rule-based drivers whose parameters are drawn again at a step.

    Attributes:
      step: Step of the record.
    """

    step: Int[Array, ""]
    dynamics = IDM.dynamics

    def init(self, observation: Observation, key: Key[Array, ""]) -> Any:
        """Drivers, and the parameters from the step on."""
        return IDM().init(observation, key), IDM().init(observation, jax.random.fold_in(key, 1)).idm

    def act(self, observation: Observation, carry: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        """The actions of `IDM`."""
        drivers, further = carry
        is_drawn = observation.step == self.step
        idm = jax.tree.map(lambda new, old: jnp.where(is_drawn, new, old), further, drivers.idm)
        # Paths contain the desired speeds, so they are assigned again.
        is_initialized = drivers.is_initialized & ~is_drawn
        drivers = dataclasses.replace(drivers, idm=idm, is_initialized=is_initialized)
        action, drivers = IDM().act(observation, drivers, key)
        return action, (drivers, further)


@functools.partial(jax.jit, static_argnames=("env", "num_steps", "params"))
def simulate(
    env: Env, policy: Policy, scenario: Scenario, key: Key[Array, ""], num_steps: int, params: StyleParams
) -> dict[str, Array]:
    """Consistency of style, rates of collisions and of leaving the road, and numbers of agents of a rollout.

    Args:
      env: Rules.
      policy: Moves all agents.
      scenario: The scene.
      key: Random key.
      num_steps: Steps.
      params: Windows of the consistency.
    """
    trace = rollout(env, policy, scenario, key, num_steps)
    assert trace.metrics is not None and trace.agents is not None
    result = {}
    for name in NAMES:
        consistency = style_consistency(trace.metrics[name], scenario.time_step, params)
        result[name] = jnp.where(consistency.valid, consistency.value, jnp.nan)
    for name in ("overlap", "offroad"):
        values = trace.metrics[name]
        count = jnp.sum(values.valid).astype(jnp.float32)
        result[name] = jnp.sum(values.value) / jnp.where(count > 0, count, jnp.nan)
    valid = trace.agents.valid
    first = jnp.argmax(valid, axis=0)
    appears = jnp.any(valid, axis=0) & (first > 0)
    leaves = jnp.any(valid, axis=0) & ~valid[-1]
    counts = {"agents": jnp.mean(jnp.sum(valid, axis=1).astype(jnp.float32))}
    counts |= {name: jnp.sum(mask) for name, mask in (("appear", appears), ("leave", leaves))}
    return result | counts


def run(study: Study) -> dict[str, list[dict[str, float]]]:
    """Rows of each arm, one per scene."""
    params = LongSceneParams(num_steps=131, entry_distance=160.0, max_agents=24) if study.quick else LongSceneParams()
    style = StyleParams(window=5.0, min_duration=1.0, min_agents=3) if study.quick else StyleParams()
    middle = (params.num_steps + 10) // 2
    arms: dict[str, Policy] = {
        "traffic of the scene": LogReplay(),
        "rule-based drivers": RedrawnIDM(jnp.asarray(NEVER)),
        "parameters drawn again halfway (control)": RedrawnIDM(jnp.asarray(middle)),
    }
    arms |= _policy_arms(study.policy)
    results = ResultsDir(study.out, ("arm", "scene"))
    results.open({"scenes": f"long:{TEST}", "quick": study.quick})
    rows = results.rows()
    num_scenes = 1 if study.quick else study.scenes
    for index, scenario in _padded_scenes(num_scenes, params):
        for name in (name for name in arms if (name, index) not in rows):
            start = time.process_time()
            key = jax.random.fold_in(jax.random.key(TEST), index)
            env = _environment(arms[name])
            values = jax.device_get(simulate(env, arms[name], scenario, key, params.num_steps - 11, style))
            row = {"arm": name, "scene": index} | {item: _plain(value) for item, value in values.items()}
            results.append([row | {"cpu_seconds": time.process_time() - start}])
            rows[name, index] = row
            print(f"{name}, scene {index}: {time.process_time() - start:.1f} CPU s", flush=True)
    return {name: [rows[name, index] for index in range(num_scenes)] for name in arms}


def _policy_arms(names: tuple[str, ...]) -> dict[str, Policy]:
    """Policies by name, scene decoders without the tokens of their past included."""
    arms: dict[str, Policy] = {}
    for text in names:
        name, _, spec = text.rpartition("=")
        policy = resolve_policy(spec)
        arms[name or spec] = policy
        if isinstance(policy, DecoderPolicy):
            # Modalities are leaves, so both share a program.
            modalities = dataclasses.replace(policy.modalities, history=jnp.zeros_like(policy.modalities.history))
            arms[f"{name or spec}{CONTROL_SUFFIX}"] = dataclasses.replace(policy, modalities=modalities)
    return arms


def _padded_scenes(count: int, params: LongSceneParams) -> list[tuple[int, Scenario]]:
    """Scenes of equal shapes, which share programs, with their numbers."""
    scenarios = [to_scenario(long_scene(TEST, index, params, corridor)) for index in range(count)]
    sizes = common_lengths(scenarios)
    return [(index, pad(scenario, sizes)) for index, scenario in enumerate(scenarios)]


def _environment(policy: Policy) -> Env:
    metrics = ("overlap", "offroad", *LONG_HORIZON_METRICS)
    history = observed_history_steps([policy])
    return Env(config=EnvConfig("all", despawn="log", metrics=metrics, rewards=(), num_history_steps=history))


def _plain(value: np.ndarray) -> float | None:
    """A number of strict JSON; None for one that is not finite."""
    return float(value) if np.isfinite(value) else None


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """Values of all scenes; NaN where there is none."""
    return np.array([np.nan if row[name] is None else row[name] for row in rows], float)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over scenes and its 95 % bootstrap interval; NaN if a scene has no value."""
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(np.mean(values[draws], axis=1), (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


def find_criteria(rows: dict[str, list[dict[str, Any]]]) -> list[Criterion]:
    """Criteria L5.

    Args:
      rows: Rows of each arm.
    """
    truth, drivers, control, *policies = rows
    criteria = []
    for name in NAMES:
        reference = column(rows[truth], name)
        criteria += [Criterion(f"L5 {name}: consistency of the {truth}, lower bound", interval(reference)[1], low=0.3)]
        difference = column(rows[drivers], name) - column(rows[control], name)
        criteria += [Criterion(f"L5 {name}: drivers minus control, lower bound", interval(difference)[1], low=1e-9)]
        for policy in (drivers, *(name for name in policies if not name.endswith(CONTROL_SUFFIX))):
            share = effect_share(float(np.mean(column(rows[policy], name))), float(np.mean(reference)))
            criteria += [Criterion(f"L5 {name}: {policy} over the {truth}", share, low=0.8)]
            if (blind := f"{policy}{CONTROL_SUFFIX}") in rows:
                change = interval(column(rows[policy], name) - column(rows[blind], name))[1]
                criteria += [
                    Criterion(f"L5 {name}: {policy} minus itself without its past, lower bound", change, low=1e-9)
                ]
    return criteria


def main(study: Study) -> list[Criterion]:
    """Prints the table and the criteria."""
    rows = run(study)
    columns = (*NAMES, "overlap", "offroad", "agents", "appear", "leave")
    print(table_line("arm", {name: name for name in columns}) + "\n|" + "---|" * (1 + len(columns)))
    for arm, own in rows.items():
        cells = {name: "{:.3f} ({:.3f} to {:.3f})".format(*interval(column(own, name))) for name in columns}
        print(table_line(arm, cells))
    criteria = find_criteria(rows)
    for criterion in criteria:
        print(criterion)
    return criteria


if __name__ == "__main__":
    main(tyro.cli(Study))
