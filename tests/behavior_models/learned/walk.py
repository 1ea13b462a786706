"""The smallest training, and a process that is killed in the middle of it."""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from behavior_models.training.loop import LoopConfig, run_training
from waymax_sim.pytree import pytree


@pytree
class Walk:
    """A random walk, whose position depends on all random draws."""

    position: jax.Array
    key: jax.Array
    count: jax.Array


@jax.jit
def walk(state: Walk):
    """One step."""
    key, own = jax.random.split(state.key)
    position = state.position + jax.random.normal(own, (3,))
    return Walk(position, key, state.count + 1), {"loss": jnp.sum(position**2), "agent_steps": jnp.float32(3.0)}


def first() -> Walk:
    """The first state."""
    return Walk(jnp.zeros(3), jax.random.key(1), jnp.int32(0))


def main(folder: str, last: str) -> None:
    """Runs a training that is killed before a step."""

    def killed(state: Walk):
        if int(state.count) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return walk(state)

    run_training(Path(folder), first(), killed, LoopConfig(num_steps=12, log_every=2, save_every=4))


if __name__ == "__main__":
    main(*sys.argv[1:])
