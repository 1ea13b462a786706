"""Map tokens of a scene: pieces of lanes, road edges and routes, and stop lines.

All functions are pure and have static shapes: policies call them at the start of an episode, the training once for each
recorded scene.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.scene_decoder.poses import poses
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import CROSSWALK, LANE_BIKE, LANE_TYPES, ROAD_EDGE_TYPES, RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.signals import (
    CAUTION_STATES,
    FLASHING_CAUTION,
    FLASHING_STOP,
    GO_STATES,
    STOP_STATES,
    Signals,
    observed_states,
)
from waymax_sim.pytree import Array, pytree, static_record

# Groups of states of a light: stop, caution, go, unknown.
NUM_LIGHT_GROUPS = 4
LIGHT_GROUPS = ((*STOP_STATES, FLASHING_STOP), (*CAUTION_STATES, FLASHING_CAUTION), GO_STATES)
# Distance of padding and of pieces without an agent, m.
FAR_DISTANCE = 1e6


@static_record
class MapTokenParams:
    """Numbers and sizes of map tokens. The values are choices of this package.

    Attributes:
      piece_length: Approximate length of a piece of a lane or road edge, m.
      route_length: Length of a piece of the route, m.
      min_length: Shorter map features have no pieces, m.
      num_lanes: Slots of lane pieces and crosswalk sides; the nearest ones to agents.
      num_edges: Slots of road-edge pieces.
      num_stops: Slots of stop lines.
      num_route: Slots of route pieces.
      horizon: Time over which agents move on at their velocity, for the distance of pieces, s.
    """

    piece_length: float = 6.0
    route_length: float = 10.0
    min_length: float = 0.5
    num_lanes: int = 1024
    num_edges: int = 512
    num_stops: int = 48
    num_route: int = 24
    horizon: float = 8.0


MAP_TOKENS = MapTokenParams()


@pytree
class Pieces:
    """Directed pieces of a map. The leading axes are free.

    Attributes:
      pose: Midpoint and heading.
      features: Attributes, in the units of the networks.
      valid: False for padding.
    """

    pose: Float[Array, "*lead P 3"]
    features: Float[Array, "*lead P F"]
    valid: Bool[Array, "*lead P"]


@pytree
class SceneMap:
    """Map tokens of a scene.

    Attributes:
      lanes: Pieces of lanes and sides of crosswalks: length / 6 m, bend, speed limit / 20 m/s, crosswalk, bike lane.
      edges: Pieces of road edges, with the road to their left: length / 6 m.
      stops: Stop lines: stop sign.
      route: Pieces of the path of the sdc: bend, agreement with its log.
      light: Column of the light of each stop line in `Signals`, -1 without one.
    """

    lanes: Pieces
    edges: Pieces
    stops: Pieces
    route: Pieces
    light: Int[Array, "*lead S"]


def scene_map(
    roadmap: RoadMap,
    graph: LaneGraph,
    routes: Routes | None,
    agents: AgentState,
    params: MapTokenParams = MAP_TOKENS,
) -> SceneMap:
    """The map tokens around agents.

    Args:
      roadmap: The map.
      graph: Lane connectivity.
      routes: Paths of the sdc.
      agents: The agents now; pieces near their motion of the next seconds are selected.
      params: Numbers and sizes.
    """
    pieces = _feature_pieces(roadmap, params)
    kind = roadmap.feature_type[jnp.maximum(roadmap.feature, 0)]
    limit = jnp.asarray(graph.speed_limit)[jnp.clip(roadmap.feature, 0, len(graph.speed_limit) - 1)]
    is_crosswalk, is_lane = kind == CROSSWALK, _is_in(kind, LANE_TYPES)
    length, bend = pieces.features[:, 0] / params.piece_length, pieces.features[:, 1] * 3.0
    limit = jnp.where(is_lane, limit / 20.0, 0.0)
    flags = is_crosswalk.astype(jnp.float32), (kind == LANE_BIKE).astype(jnp.float32)
    lanes = Pieces(pieces.pose, jnp.stack([length, bend, limit, *flags], axis=-1), is_lane | is_crosswalk)
    edges = Pieces(pieces.pose, length[:, None], _is_in(kind, ROAD_EDGE_TYPES))
    distance = jnp.where(pieces.valid, _distance(pieces.pose, agents, params.horizon), FAR_DISTANCE)
    stops, light = _stop_lines(graph, agents, params)
    return SceneMap(
        lanes=_nearest(lanes, jnp.where(lanes.valid, distance, FAR_DISTANCE), params.num_lanes)[0],
        edges=_nearest(edges, jnp.where(edges.valid, distance, FAR_DISTANCE), params.num_edges)[0],
        stops=stops,
        route=_route_pieces(routes, params),
        light=light,
    )


def stop_line_lights(scene: SceneMap, signals: Signals) -> Float[Array, "*lead S 4"]:
    """Group of the state of the light of each stop line, one-hot; zero for lines without a light.

    Args:
      scene: The map tokens.
      signals: The lights, of any leading axes.
    """
    state = observed_states(signals)[..., jnp.maximum(scene.light, 0)]
    groups = [_is_in(state, states) for states in LIGHT_GROUPS]
    is_unknown = ~(groups[0] | groups[1] | groups[2])
    has_light = (scene.light >= 0).reshape(*[1] * (state.ndim - 1), -1, 1)
    one_hot = jnp.stack([*groups, is_unknown], axis=-1) & has_light
    return one_hot.astype(jnp.float32)


def _feature_pieces(roadmap: RoadMap, params: MapTokenParams) -> Pieces:
    """A piece at each point at which one begins, with its length (m) and the change of heading at its middle (rad)."""
    xyz, feature = jnp.asarray(roadmap.xyz), jnp.asarray(roadmap.feature)
    index, is_point = jnp.arange(len(xyz)), jnp.asarray(roadmap.valid) & (feature >= 0)
    continues = jnp.concatenate([jnp.zeros(1, bool), (feature[1:] == feature[:-1]) & is_point[1:] & is_point[:-1]])
    step = jnp.where(continues, geometry.norm(xyz[:, :2] - jnp.roll(xyz[:, :2], 1, axis=0)), 0.0)
    first = jax.lax.cummax(jnp.where(continues, 0, index))
    is_last = ~jnp.concatenate([continues[1:], jnp.zeros(1, bool)])
    last = jax.lax.cummin(jnp.where(is_last, index, len(xyz) - 1), reverse=True)
    total = jnp.cumsum(step)
    length = total[last] - total[first]
    count = jnp.maximum(jnp.round(length / params.piece_length), 1.0)
    number = jnp.floor((total - total[first]) / jnp.maximum(length, params.min_length) * count)
    number = jnp.minimum(number, count - 1)
    begins = ~continues | (number != jnp.roll(number, 1))
    following = jax.lax.cummin(jnp.where(begins, index, len(xyz)), reverse=True)
    end = jnp.minimum(jnp.concatenate([following[1:], jnp.full(1, len(xyz))]), last)
    valid = is_point & begins & (index < last) & (length >= params.min_length)
    return _pieces_between(xyz[:, :2], index, end, total, valid)


def _pieces_between(
    xy: Float[Array, "M 2"],
    begin: Int[Array, " P"],
    end: Int[Array, " P"],
    arc_length: Float[Array, " M"],
    valid: Bool[Array, " P"],
) -> Pieces:
    """Pieces from the points `begin` to the points `end` of polylines."""
    middle = (xy[(begin + end) // 2] + xy[(begin + end + 1) // 2]) / 2
    zero = jnp.zeros(len(begin))
    heading = geometry.heading_angle(xy[end] - xy[begin], zero)
    before, after = (geometry.heading_angle(part, heading) for part in (middle - xy[begin], xy[end] - middle))
    bend = geometry.wrap_angle(after - before)
    pose = jnp.concatenate([middle, heading[:, None]], axis=-1)
    return Pieces(pose, jnp.stack([arc_length[end] - arc_length[begin], bend], axis=-1), valid)


def _stop_lines(graph: LaneGraph, agents: AgentState, params: MapTokenParams) -> tuple[Pieces, Int[Array, " S"]]:
    lines = graph.stop_lines
    lane, is_line = jnp.maximum(jnp.asarray(lines.lane), 0), jnp.asarray(lines.lane) >= 0
    pose = jnp.concatenate([jnp.asarray(lines.xyz)[:, :2], jnp.asarray(lines.yaw)[:, None]], axis=-1)
    sign = jnp.asarray(graph.stop_sign)[lane].astype(jnp.float32)
    light = jnp.where(is_line, jnp.asarray(graph.light)[lane], -1)
    distance = jnp.where(is_line, _distance(pose, agents, params.horizon), FAR_DISTANCE)
    pieces, order = _nearest(Pieces(pose, sign[:, None], is_line), distance, params.num_stops)
    column = jnp.pad(light, (0, max(0, params.num_stops - len(light))), constant_values=-1)[order]
    return pieces, jnp.where(pieces.valid, column, -1)


def _route_pieces(routes: Routes | None, params: MapTokenParams) -> Pieces:
    """Pieces of the path that agrees with the log of the sdc, otherwise of the first path."""
    if routes is None:
        empty = jnp.zeros((params.num_route, 3))
        return Pieces(empty, jnp.zeros((params.num_route, 2)), jnp.zeros(params.num_route, bool))
    path = jnp.argmax(routes.on_route)
    xyz, valid = jnp.asarray(routes.xyz)[path], jnp.asarray(routes.valid)[path]
    length = jnp.max(jnp.where(valid, routes.arc_length[path], 0.0))
    arc_length = jnp.where(valid, routes.arc_length[path], jnp.inf)
    points = jnp.arange(2 * params.num_route + 1, dtype=jnp.float32) * (params.route_length / 2)
    x, y = (jnp.interp(points, arc_length, jnp.where(valid, xyz[:, axis], 0.0)) for axis in range(2))
    xy = jnp.stack([x, y], axis=-1)
    begin = 2 * jnp.arange(params.num_route)
    is_piece = points[begin + 2] <= length
    pieces = _pieces_between(xy, begin, begin + 2, points, is_piece)
    agrees = jnp.broadcast_to(jnp.asarray(routes.on_route)[path].astype(jnp.float32), begin.shape)
    return Pieces(pieces.pose, jnp.stack([pieces.features[:, 1] * 3.0, agrees], axis=-1), is_piece)


def _distance(pose: Float[Array, "P 3"], agents: AgentState, horizon: float) -> Float[Array, " P"]:
    """Distance of points from the nearest straight motion of a valid agent over a horizon (s), m."""
    now, ahead = poses(agents), geometry.norm(agents.velocity) * horizon
    direction = geometry.heading_angle(agents.velocity, agents.yaw)
    local = geometry.to_frame(pose[:, None, :2], now[None, :, :2], direction[None])
    beyond = local[..., 0] - jnp.clip(local[..., 0], 0.0, ahead[None])
    distance = jnp.where(agents.valid[None], beyond**2 + local[..., 1] ** 2, FAR_DISTANCE**2)
    return jnp.sqrt(jnp.min(distance, axis=1))


def _nearest(pieces: Pieces, distance: Float[Array, " P"], count: int) -> tuple[Pieces, Int[Array, " count"]]:
    """The nearest pieces in ascending order, and their indices."""
    missing = max(0, count - len(distance))
    padded = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)), pieces)
    negative, order = jax.lax.top_k(-jnp.pad(distance, (0, missing), constant_values=FAR_DISTANCE), count)
    valid = negative > -FAR_DISTANCE
    pose, features = (jnp.where(valid[:, None], leaf[order], 0.0) for leaf in (padded.pose, padded.features))
    return Pieces(pose, features, valid), order


def _is_in(values: Int[Array, "*n"], members: tuple[int, ...]) -> Bool[Array, "*n"]:
    return functools.reduce(jnp.logical_or, [values == member for member in members])
