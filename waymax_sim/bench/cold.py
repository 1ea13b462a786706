"""Cold starts: a new process from its first import to the first batch, and to the first judged step."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self/status")
FIRST_STEP = """
import json, sys
import jax
import jax.numpy as jnp
import waymax_sim as ws
path, index = sys.argv[1], int(sys.argv[2])
scenario = ws.load(path)[index]
env = ws.Env(config=ws.EnvConfig(controlled="all"))
state = jax.jit(env.initial_state)(scenario, jax.random.key(0))
action = ws.Action(value=jnp.zeros((scenario.num_agents, 2)), valid=state.agents.valid)
state, out = jax.block_until_ready(jax.jit(env.step)(scenario, state, action))
from waymax_sim.bench.cold import peak_rss_mb
print(json.dumps({
    "agents": scenario.num_agents,
    "valid_agents": float(state.agents.valid.sum()),
    "map_points": int(scenario.roadmap.valid.sum()),
    "peak_rss_mb": peak_rss_mb(),
}))
"""
FIRST_BATCH = """
import json, sys
import waymax_sim as ws
scenario = next(iter(ws.load(sys.argv[1], batch_size=1)))
from waymax_sim.bench.cold import peak_rss_mb
print(json.dumps({
    "agents": scenario.num_agents,
    "map_points": int(scenario.roadmap.valid.sum()),
    "peak_rss_mb": peak_rss_mb(),
}))
"""


def cold_starts(path: str, index: int, repeats: int) -> dict[str, dict[str, Any]]:
    """First judged step of new processes, by name: without and with programs compiled before; and the first batch.

    Args:
      path: Where the scenes are.
      index: Which scene is simulated; the batch is of the first one.
      repeats: Processes of each kind; one more fills the folder of compiled programs first.

    Returns:
      For each kind the size of the scene, `peak_rss_mb`, and lists of seconds as `wall` and `cpu`.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        _start(FIRST_STEP, path, index, cache)
        kinds = {
            "cold_start": (FIRST_STEP, {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
            "cold_start_warm_cache": (FIRST_STEP, cache),
            "first_batch": (FIRST_BATCH, cache),
        }
        found = {name: [] for name in kinds}
        for _ in range(repeats):
            for name, (program, settings) in kinds.items():
                found[name].append(_start(program, path, index, settings))
    return {
        name: runs[0] | {key: [run[key] for run in runs] for key in ("wall", "cpu")} for name, runs in found.items()
    }


def peak_rss_mb() -> float | None:
    """The most memory this process ever had, MB; None where the system does not tell."""
    # Not `getrusage`: there a new process begins with the peak of the one that started it.
    lines = PROCESS.read_text(encoding="utf-8").splitlines() if PROCESS.exists() else []
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peaks[0]) * 1024 / 1e6 if peaks else None


def _start(program: str, path: str, index: int, settings: dict[str, str]) -> dict[str, Any]:
    def cpu_of_children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    # What this process was given in `sys.path` the new one needs too, whether or not the package is installed.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | settings
    # On a GPU this process may hold most of the memory already.
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    cpu, wall = cpu_of_children(), time.perf_counter()
    command = [sys.executable, "-c", program, path, str(index)]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    wall, cpu = time.perf_counter() - wall, cpu_of_children() - cpu
    return json.loads(run.stdout) | {"wall": wall, "cpu": cpu}
