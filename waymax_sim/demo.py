"""The demo: a few policies in made-up scenes, in numbers and pictures."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key
from rich.console import Console

from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.agents import Selector, select
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, Policy, Trace, rollout
from waymax_sim.evaluation.evaluate import columns_of, numbers
from waymax_sim.evaluation.report import circumstances, write_json
from waymax_sim.evaluation.sharding import scene_key
from waymax_sim.evaluation.summary import result_of
from waymax_sim.evaluation.tables import comparison_table
from waymax_sim.metrics import MetricValue, summarize
from waymax_sim.plugins import resolve_policy
from waymax_sim.pytree import Array, take
from waymax_sim.viz import animate, draw, viewer

SCENES = "synthetic:0:3"
NUM_STEPS = 80
# What is drawn: cars that do not react, when most of them overlap (or at the end), and in motion at the crossing.
DRAWN: tuple[str, Selector] = ("constant_velocity", "vehicle")
ANIMATED_SCENE = 1
RUNS: tuple[tuple[str, Selector], ...] = (
    ("log_replay", "all"),
    ("constant_velocity", "sdc"),
    DRAWN,
    ("idm", "vehicle"),
    ("stationary", "sdc"),
)
# What is side by side on the page.
COMPARED = (DRAWN, ("idm", "vehicle"))
# What a first look needs; all metrics take several times as long to compile.
SHOWN = ("overlap", "offroad", "log_divergence", "clearance", "red_light_violation")
ENV = Env(config=EnvConfig(metrics=SHOWN, rewards=()))


def run_demo(out: Path, console: Console) -> None:
    """Rolls out the policies of `RUNS`, prints a table, and writes summary.json, a picture per scene, a GIF and a page.

    Args:
      out: Folder to write to; it must exist.
      console: Where to print.
    """
    scenarios = list(load(SCENES))
    batch = stack_scenarios(scenarios)
    keys = jnp.stack([scene_key(0, scenario.scenario_id) for scenario in scenarios])
    results, written, compared = [], [out / "summary.json"], {}
    for name, agents in RUNS:
        console.print(f"simulating {len(scenarios)} scenes: {name} drives {agents}")
        policy = resolve_policy(name)
        driven = jax.device_get(jax.vmap(functools.partial(select, who=agents))(batch.agents))
        trace, values = jax.device_get(_simulate(policy, batch, keys, driven))
        rows = [{"index": index} | numbers(take(values, index), SHOWN) for index in range(len(scenarios))]
        about = {"policy": name, "privileged": policy.privileged, "agents": agents, "traffic": "log_replay"}
        results.append(about | result_of(rows, columns_of(SHOWN)))
        if (name, agents) == DRAWN:
            written += _draw(out, batch, trace, driven)
        if (name, agents) in COMPARED:
            compared[f"{name} drives every {agents}"] = take(trace, ANIMATED_SCENE)
    # The batch is padded to common sizes, as the traces are.
    page = viewer(take(batch, ANIMATED_SCENE), compared)
    written.append(page.save(out / f"{scenarios[ANIMATED_SCENE].scenario_id}.html"))
    conditions = {"path": SCENES, "steps": NUM_STEPS, "seeds": [0], **circumstances()}
    write_json(written[0], {"num_scenes": len(scenarios), "results": results, "conditions": conditions})
    console.print(comparison_table(results))
    console.print("wrote", *written, sep="\n  ")
    console.print(f"open {written[-1]} in a browser to play with it", soft_wrap=True)


# The scenes are one batch of equal shapes and the driven agents a mask: one program per policy.
@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
def _simulate(
    policy: Policy, scenario: Scenario, key: Key[Array, ""], driven: Bool[Array, " N"]
) -> tuple[Trace, dict[str, MetricValue]]:
    trace = rollout(ENV, [(policy, driven)], scenario, key, NUM_STEPS, record=("agents", "metrics"))
    assert trace.metrics is not None  # they were asked for
    return trace, summarize(trace.metrics, ENV.metrics, trace.active, driven)


def _draw(out: Path, batch: Scenario, trace: Trace, driven: Bool[Array, "B N"]) -> list[Path]:
    written = []
    for index in range(len(batch.id_bytes)):
        scenario, then = take(batch, index), take(trace, index)
        assert then.agents is not None and then.metrics is not None
        flags = {name: (then.metrics[name].value > 0) & driven[index] for name in ("overlap", "offroad")}
        overlaps = flags["overlap"].sum(axis=-1)
        now = int(overlaps.argmax()) if overlaps.any() else NUM_STEPS - 1
        picture = draw(
            scenario,
            take(then.agents, now),
            step=int(then.step[now]),
            past=take(then.agents, slice(now - 10, now)),
            controlled=driven[index],
            flags={name: flag[now] for name, flag in flags.items()},
            title=f"{scenario.scenario_id}: {DRAWN[0]} drives every {DRAWN[1]}, {(now + 1) * ENV.config.dt:.1f} s on",
        )
        written.append(out / f"{scenario.scenario_id}.png")
        picture.savefig(written[-1])
        if index == ANIMATED_SCENE:
            written.append(out / f"{scenario.scenario_id}.gif")
            # Every second step at 5 frames a second is real time.
            half = slice(None, None, 2)
            animate(
                scenario,
                take(then.agents, half),
                written[-1],
                steps=then.step[half],
                flags={name: flag[half] for name, flag in flags.items()},
                controlled=driven[index],
                fps=5.0,
            )
    return written
