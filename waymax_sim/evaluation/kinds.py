"""Kinds of scenes by the features of their record, such as turns and dense traffic."""

import dataclasses
from collections.abc import Mapping, Sequence

from waymax_sim.results_dir import Json


@dataclasses.dataclass(frozen=True)
class SceneKindParams:
    """Limits of the kinds, chosen so that urban, suburban and fast scenes differ.

    Attributes:
      min_speed: Agents below it are stationary, m/s.
      high_speed: Speed from which a scene counts as fast, m/s: that of major roads.
      min_turn: Change of the heading from which an agent turns, rad.
      max_gap: Largest gap to another agent that counts as close, m.
      min_crowd: Mean number of agents within 20 m from which traffic counts as dense.
    """

    min_speed: float = 0.5
    high_speed: float = 15.0
    min_turn: float = 0.5
    max_gap: float = 1.5
    min_crowd: float = 8.0


KIND_PARAMS = SceneKindParams()
KINDS = ("stationary", "straight", "turning", "high speed", "crossing paths", "close agents", "dense traffic")
KINDS_NOTE = "kinds: from the logged motion of the evaluated agents; a scene may be of several kinds"


def scene_kinds(features: Mapping[str, float | None], params: SceneKindParams = KIND_PARAMS) -> list[str]:
    """The kinds of a scene, in the order of `KINDS`; a kind whose features are undefined does not apply.

    Args:
      features: Features of `evaluation.difficulty`: closeness (m), speed (m/s), turn (rad), conflicts, crowding.
      params: Limits.
    """

    def at_least(name: str, limit: float) -> bool:
        value = features.get(name)
        return value is not None and value >= limit

    moves, turns = at_least("speed", params.min_speed), at_least("turn", params.min_turn)
    applies = {
        "stationary": features.get("speed") is not None and not moves,
        "straight": moves and features.get("turn") is not None and not turns,
        "turning": moves and turns,
        "high speed": at_least("speed", params.high_speed),
        "crossing paths": at_least("conflicts", 1.0),
        "close agents": at_least("closeness", -params.max_gap),
        "dense traffic": at_least("crowding", params.min_crowd),
    }
    return [kind for kind in KINDS if applies[kind]]


def scenes_by_kind(rows: Sequence[Json], params: SceneKindParams = KIND_PARAMS) -> dict[str, list[int]]:
    """Indices of scenes by kind, without kinds of no scene.

    Args:
      rows: Rows with `index` and `difficulty`; those of earlier versions have none.
      params: Limits.
    """
    kinds = {row["index"]: scene_kinds(row["difficulty"], params) for row in rows if row.get("difficulty")}
    members = {kind: sorted(index for index, own in kinds.items() if kind in own) for kind in KINDS}
    return {kind: indices for kind, indices in members.items() if indices}
