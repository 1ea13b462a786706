"""Modalities of the inputs of the scene decoder: removal of some of them at test time, and at random in training."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from behavior_models.scene_decoder.scene_map import NUM_LIGHT_GROUPS
from behavior_models.scene_decoder.scene_tokens import AgentFeatures
from waymax_sim.pytree import Array, pytree

# Sets of tokens of the modality "map".
MAP_MODALITY_SETS = ("lanes", "edges", "stops")
# Modalities that are dropped at random in training; the map is always there.
DROPPED = ("route", "lights", "agents", "history")


@pytree
class Modalities:
    """Modalities that the network observes; the leading axes are those of its inputs.

    Attributes:
      map: Lanes, road edges and stop lines.
      route: The path of the sdc.
      lights: States of lights; the stop lines belong to the map.
      agents: Other agents.
      history: Tokens before the current one.
    """

    map: Bool[Array, "*lead"]
    route: Bool[Array, "*lead"]
    lights: Bool[Array, "*lead"]
    agents: Bool[Array, "*lead"]
    history: Bool[Array, "*lead"]

    @classmethod
    def select(cls, *without: str, lead: tuple[int, ...] = ()) -> "Modalities":
        """All modalities but the named ones.

        Args:
          without: Names of modalities that are removed.
          lead: Leading axes.

        Raises:
          ValueError: A name is unknown.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = set(without) - set(names)
        if unknown:
            raise ValueError(f"unknown modalities {sorted(unknown)}; choose from {', '.join(names)}")
        return cls(**{name: jnp.full(lead, name not in without) for name in names})

    @classmethod
    def draw(cls, key: Key[Array, ""], rate: float, lead: tuple[int, ...]) -> "Modalities":
        """Modalities of which each one of `DROPPED` is removed at random.

        Args:
          key: Random key.
          rate: Probability of the removal of a modality.
          lead: Leading axes: one draw for each entry.
        """
        keys = dict(zip(DROPPED, jax.random.split(key, len(DROPPED)), strict=True))
        drawn = {name: ~jax.random.bernoulli(own, rate, lead) for name, own in keys.items()}
        return cls(map=jnp.ones(lead, bool), **drawn)


def mask_modalities(features: AgentFeatures, modalities: Modalities) -> AgentFeatures:
    """The features without the tokens of absent modalities.

    Args:
      features: Features of agents, of leading axes to which those of the modalities are a prefix.
      modalities: Present modalities.
    """
    sets, masks = dict(features.sets), dict(features.masks)
    for name in MAP_MODALITY_SETS:
        masks[name] = masks[name] & _expand(modalities.map, masks[name].ndim)
    for name in ("route", "agents"):
        masks[name] = masks[name] & _expand(getattr(modalities, name), masks[name].ndim)
    sets["stops"] = _without_lights(sets["stops"], modalities.lights)
    return AgentFeatures(features.own, sets, masks)


def _without_lights(stops: Float[Array, "*lead M F"], lights: Bool[Array, "*some"]) -> Float[Array, "*lead M F"]:
    shown = stops[..., -NUM_LIGHT_GROUPS:] * _expand(lights, stops.ndim).astype(stops.dtype)
    return jnp.concatenate([stops[..., :-NUM_LIGHT_GROUPS], shown], axis=-1)


def _expand(mask: Bool[Array, "*some"], ndim: int) -> Bool[Array, "*some_ones"]:
    return mask.reshape(*mask.shape, *[1] * (ndim - mask.ndim))
