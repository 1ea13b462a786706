"""Installed packages that register plug-ins."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from behavior_models import ConstantVelocity

POLICY = """
    import functools

    import waymax_sim as ws
    from waymax_sim.pytree import static_record


    @static_record
    class Braking(ws.Policy):
        deceleration: float = 1.0
        dynamics = ws.Bicycle()

        def act(self, observation, carry, key):
            valid = observation.agents.valid
            value = jnp.zeros((valid.shape[0], 2)).at[:, 0].set(-self.deceleration)
            return ws.Action(value=value, valid=valid), carry


    import jax.numpy as jnp

    ready = Braking(2.0)
    hard = functools.partial(Braking, 8.0)


    def make(deceleration: float = 3.0) -> ws.Policy:
        return Braking(deceleration)


    def load(folder):
        return Braking(float((folder / "weights.txt").read_text()))


    class Unregistered(ws.Policy):
        def act(self, observation, carry, key):
            return None, carry


    def returns_class():
        return Braking


    def fails():
        raise ValueError("no such\\nmodel")


    constant = 3


    def __getattr__(name):
        if name == "Learned":
            raise ImportError("needs flax")
        raise AttributeError(name)
"""


def load_constant_velocity(folder: Path) -> ConstantVelocity:
    """A loader of checkpoints without weights."""
    assert (folder / "policy.json").is_file()
    return ConstantVelocity()


def write_module(folder: Path, name: str, source: str = POLICY) -> None:
    (folder / f"{name}.py").write_text(dedent(source))


def write_package(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """The metadata that pip writes for a package with these entry points, by group and name."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, members in entry_points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in members.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
