"""Inputs of the scene decoder: features of an agent and of the tokens around it, all in the frame of the agent.

No absolute coordinate enters, so that the inputs do not change with rotations and translations of the scene. Training,
rollouts and likelihoods share `agent_features`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.scene_decoder.motion_tokens import SEGMENT_TIME
from behavior_models.scene_decoder.poses import NUM_CLASSES, relative_pose
from behavior_models.scene_decoder.scene_map import FAR_DISTANCE, Pieces, SceneMap
from waymax_sim import geometry
from waymax_sim.pytree import Array, pytree, static_record

# Sets of tokens around an agent, in the order in which they are attended.
MAP_SETS = ("lanes", "edges", "stops", "route")
AGENT_SET = "agents"
TOKEN_SETS = (*MAP_SETS, AGENT_SET)
# Number of features of the agent itself and of the tokens of each set.
NUM_OWN_FEATURES = 11
NUM_FEATURES = {"lanes": 14, "edges": 10, "stops": 14, "route": 11, "agents": 17}


@static_record
class SceneTokenParams:
    """Selection of the tokens around an agent. The values are choices of this package.

    Attributes:
      num_lanes: Nearest lane pieces.
      num_edges: Nearest road-edge pieces.
      num_stops: Nearest stop lines.
      num_route: Nearest route pieces; of the sdc alone.
      num_agents: Nearest agents.
      radius: Tokens at larger distances have no influence, m.
      horizon: Distances are those from the straight motion over this time, s: at 20 m/s the map around the agent is
        passed before the next token.
      min_ahead: Shortest length of this motion, m.
      max_ahead: Its largest length, m.
      lateral_weight: Weight of lateral distances relative to those beyond the motion.
      ahead_weight: Weight of distances along the motion, which orders tokens of equal lateral distance.
    """

    num_lanes: int = 16
    num_edges: int = 8
    num_stops: int = 4
    num_route: int = 4
    num_agents: int = 8
    radius: float = 60.0
    horizon: float = 2.0
    min_ahead: float = 3.0
    max_ahead: float = 40.0
    lateral_weight: float = 1.5
    ahead_weight: float = 0.1

    def count(self, name: str) -> int:
        """Number of tokens of a set."""
        return getattr(self, f"num_{name}")


SCENE_TOKENS = SceneTokenParams()


@pytree
class AgentInstant:
    """All agents of a scene at the begin of a token.

    Attributes:
      pose: Poses, m, rad.
      motion: Motion of the last half second in the frame of the pose before.
      is_first: Whether the motion is by velocity, since the agent was absent half a second ago.
      valid: Whether agents are present.
      size: Lengths and widths, m.
      classes: Class of each agent.
      is_sdc: The sdc, whose route is observed.
      lights: States of the lights of stop lines now (`stop_line_lights`).
    """

    pose: Float[Array, "N 3"]
    motion: Float[Array, "N 3"]
    is_first: Bool[Array, " N"]
    valid: Bool[Array, " N"]
    size: Float[Array, "N 2"]
    classes: Int[Array, " N"]
    is_sdc: Bool[Array, " N"]
    lights: Float[Array, "S 4"]


@pytree
class AgentFeatures:
    """Inputs of the network for agents. The leading axes are free.

    Attributes:
      own: Motion, speed, size and class.
      sets: Features of the tokens around the agent, by the name of the set, [..., M, F].
      masks: Tokens that exist within the radius, [..., M].
    """

    own: Float[Array, "*lead 11"]
    sets: dict[str, Float[Array, "*lead _ _"]]
    masks: dict[str, Bool[Array, "*lead _"]]


def agent_features(
    now: AgentInstant,
    scene: SceneMap,
    rows: Int[Array, " K"],
    params: SceneTokenParams = SCENE_TOKENS,
) -> AgentFeatures:
    """The inputs of the network for K agents.

    Args:
      now: All agents.
      scene: Map tokens.
      rows: Indices of the K agents.
      params: Selection of tokens.
    """
    pose, speed = now.pose[rows], _speed(now.motion[rows])
    ahead = jnp.clip(params.horizon * speed, params.min_ahead, params.max_ahead)
    sets, masks = {}, {}
    for name in MAP_SETS:
        pieces: Pieces = getattr(scene, name)
        is_candidate = jnp.broadcast_to(pieces.valid[None], (len(rows), len(pieces.valid)))
        if name == "route":
            is_candidate = is_candidate & now.is_sdc[rows][:, None]
        index, masks[name] = _select(pieces.pose, pose, ahead, is_candidate, params.count(name), params)
        relative = relative_pose(pieces.pose[index], pose[:, None])
        parts = [relative_features(relative), pieces.features[index]]
        sets[name] = jnp.concatenate([*parts, now.lights[index]] if name == "stops" else parts, axis=-1)
    is_other = now.valid[None] & (rows[:, None] != jnp.arange(len(now.valid))[None])
    index, masks["agents"] = _select(now.pose, pose, ahead, is_other, params.num_agents, params)
    sets["agents"] = _neighbor_features(now, index, pose, speed)
    sets = {name: jnp.clip(jnp.where(masks[name][..., None], value, 0.0), -8.0, 8.0) for name, value in sets.items()}
    return AgentFeatures(own_features(now, rows), sets, masks)


def _select(
    candidates: Float[Array, "P 3"],
    pose: Float[Array, "K 3"],
    ahead: Float[Array, " K"],
    mask: Bool[Array, "K P"],
    count: int,
    params: SceneTokenParams,
) -> tuple[Int[Array, "K M"], Bool[Array, "K M"]]:
    """The candidates nearest to the stretch ahead of each agent, and those within the radius."""
    local = geometry.to_frame(candidates[None, :, :2], pose[:, None, :2], pose[:, None, 2])
    within = jnp.clip(local[..., 0], 0.0, ahead[:, None])
    squared = (local[..., 0] - within) ** 2 + (params.ahead_weight * within) ** 2
    squared = squared + (params.lateral_weight * local[..., 1]) ** 2
    squared = jnp.where(mask, squared, FAR_DISTANCE**2)
    missing = max(0, count - squared.shape[1])
    squared = jnp.pad(squared, ((0, 0), (0, missing)), constant_values=FAR_DISTANCE**2)
    negative, index = jax.lax.top_k(-squared, count)
    return jnp.minimum(index, len(candidates) - 1), -negative < params.radius**2


def relative_features(relative: Float[Array, "K M 3"]) -> Float[Array, "K M 9"]:
    """Features of poses in the frame of an agent: the same pose, and the agent in the frame of that pose."""
    x, y, heading = relative[..., 0], relative[..., 1], relative[..., 2]
    cos, sin = jnp.cos(heading), jnp.sin(heading)
    lateral = sin * x - cos * y
    distance = geometry.norm(relative[..., :2])
    values = (x / 20, y / 20, _compress(x), _compress(y), distance / 20, sin, cos, lateral / 5, _compress(lateral))
    return jnp.stack(values, axis=-1)


def _neighbor_features(
    now: AgentInstant, index: Int[Array, "K M"], pose: Float[Array, "K 3"], speed: Float[Array, " K"]
) -> Float[Array, "K M 17"]:
    """Relative poses, velocities, sizes and classes of other agents."""
    relative = relative_pose(now.pose[index], pose[:, None])
    # The motion is in the frame of the pose before.
    turn = relative[..., 2] - now.motion[index][..., 2]
    velocity = geometry.rotate(now.motion[index][..., :2] / SEGMENT_TIME, turn)
    closing = velocity[..., :1] - speed[:, None, None]
    kinds = jax.nn.one_hot(now.classes[index], NUM_CLASSES)
    parts = [relative_features(relative), velocity / 10, closing / 10, now.size[index] / 5, kinds]
    return jnp.concatenate(parts, axis=-1)


def own_features(now: AgentInstant, rows: Int[Array, " K"]) -> Float[Array, "K 11"]:
    motion = now.motion[rows]
    speed = _speed(motion)[:, None]
    first = now.is_first[rows][:, None].astype(jnp.float32)
    kinds = jax.nn.one_hot(now.classes[rows], NUM_CLASSES)
    scaled = motion * jnp.asarray([0.2, 1.0, 5.0])[None]
    own = jnp.concatenate([scaled, speed / 10, jnp.log1p(speed), first, now.size[rows] / 5, kinds], axis=-1)
    return jnp.clip(own, -8.0, 8.0)


def _speed(motion: Float[Array, "N 3"]) -> Float[Array, " N"]:
    return geometry.norm(motion[:, :2]) / SEGMENT_TIME


def _compress(value: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Signed logarithm, for resolution near zero."""
    return jnp.sign(value) * jnp.log1p(jnp.abs(value)) / 2
