"""Policies as small folders of plain files.

A folder holds `policy.json` (loader, kind of the network, observation specification, actions) and `weights.npz`;
`waymax-sim evaluate --policy FOLDER` loads it. Neither holds code.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from behavior_models.encoders.raster import Raster
from behavior_models.networks.model import ActorCriticModel, NetworkModel, QModel
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.networks.q_network import QHeadConfig
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.networks.value_heads import ValueSupport
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Dynamics
from waymax_sim.env.flat_view import FlatView

LOADER = "behavior_models.networks.checkpoint:load_policy"
FORMAT_VERSION = 1
WEIGHTS_FILE = "weights.npz"
# Encoders by the name in their specification.
ENCODERS = {"flat_view": FlatView, "raster": Raster}
DYNAMICS = {"Bicycle": Bicycle, "Delta": Delta}


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded, or does not match this version."""


def save_policy(
    folder: str | os.PathLike,
    policy: NetworkPolicy,
    network: NetworkConfig,
    facts: dict[str, Any],
    head: QHeadConfig | None = None,
) -> None:
    """Writes a policy.

    Args:
      folder: Folder to write to; created if it does not exist.
      policy: A network with a flat view or a raster.
      network: Size of the network.
      facts: Algorithm, command and further facts for readers, plain values.
      head: Outputs of a network of action values; None for an actor-critic network.
    """
    encoder = policy.encoder
    assert isinstance(encoder, FlatView | Raster), "only networks with the encoders of `ENCODERS` are stored"
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    description = {
        "loader": LOADER,
        "version": FORMAT_VERSION,
        "kind": "actor_critic" if head is None else "q",
        "network": dataclasses.asdict(network),
        "head": head and dataclasses.asdict(head),
        "encoder": dataclasses.asdict(encoder),
        "observation": encoder.spec().to_dict(),
        "dynamics": _describe_dynamics(policy.dynamics),
        "mode": policy.mode,
        "interval": policy.interval,
        "facts": facts,
    }
    leaves = jax.tree.leaves(policy.params)
    arrays: dict[str, Any] = {str(index): np.asarray(leaf) for index, leaf in enumerate(leaves)}
    np.savez_compressed(path / WEIGHTS_FILE, **arrays)
    (path / "policy.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_policy(folder: Path) -> NetworkPolicy:
    """Reads a policy of `save_policy`.

    Raises:
      CheckpointError: The folder is incomplete, of another version, or made for another observation.
    """
    path = Path(folder)
    description = json.loads((path / "policy.json").read_text(encoding="utf-8"))
    if description.get("version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} has version {description.get('version')!r}; this package reads {FORMAT_VERSION}")
    encoder = _restore_encoder(description)
    difference = encoder.spec().difference(description["observation"])
    if difference:
        raise CheckpointError(f"{path} was trained with another observation: {difference}")
    dynamics, network = _restore_dynamics(description["dynamics"]), NetworkConfig.from_dict(description["network"])
    model = _restore_model(description, encoder, dynamics, network)
    return model.policy(_restore(path / WEIGHTS_FILE, model.shapes), description["mode"], description["interval"])


def _restore_encoder(description: dict[str, Any]) -> FlatView | Raster:
    name = description["observation"].get("encoder")
    if name not in ENCODERS:
        raise CheckpointError(f"unknown encoder {name!r}")
    return ENCODERS[name](**description["encoder"])


def _restore_model(
    description: dict[str, Any], encoder: FlatView | Raster, dynamics: Dynamics, network: NetworkConfig
) -> NetworkModel:
    kind = description.get("kind", "actor_critic")
    if kind == "actor_critic":
        return ActorCriticModel(encoder, dynamics, network)
    if kind != "q":
        raise CheckpointError(f"unknown kind of network {kind!r}")
    head = description["head"]
    support = head["support"] and ValueSupport(**head["support"])
    return QModel(encoder, dynamics, network, QHeadConfig(head["dueling"], support))


def _restore(file: Path, skeleton: Any) -> Any:
    """Parameters of the shapes of a skeleton."""
    expected, structure = jax.tree.flatten(skeleton)
    names = [str(index) for index in range(len(expected))]
    stored = read_npz_arrays(file, names, "write the policy again, or download it again")
    if len(stored) != len(expected):
        raise CheckpointError(f"{file} holds {len(stored)} of the {len(expected)} arrays of its network")
    leaves = [stored[name] for name in names]
    shapes = [leaf.shape for leaf in leaves]
    if shapes != [leaf.shape for leaf in expected]:
        raise CheckpointError(f"{file} holds arrays of the shapes {shapes}, which are not those of its network")
    if not all(np.isfinite(leaf).all() for leaf in leaves):
        raise CheckpointError(f"{file} holds values that are not finite")
    return jax.tree.unflatten(structure, leaves)


def _describe_dynamics(dynamics: Dynamics) -> dict[str, Any]:
    if isinstance(dynamics, Discrete):
        return {"name": "Discrete", "levels": dynamics.levels, "dynamics": _describe_dynamics(dynamics.dynamics)}
    return {"name": type(dynamics).__name__, **dataclasses.asdict(dynamics)}  # pyright: ignore[reportArgumentType]


def _restore_dynamics(stored: dict[str, Any]) -> Dynamics:
    fields = {name: value for name, value in stored.items() if name != "name"}
    if stored["name"] == "Discrete":
        return Discrete(_restore_dynamics(fields["dynamics"]), levels=fields["levels"])
    if stored["name"] not in DYNAMICS:
        raise CheckpointError(f"unknown dynamics {stored['name']!r}")
    return DYNAMICS[stored["name"]](**fields)
