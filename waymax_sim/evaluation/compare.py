"""Two evaluations of the same scenes: paired differences, and which scenes changed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from waymax_sim.evaluation import report
from waymax_sim.evaluation.confidence import bootstrap
from waymax_sim.evaluation.report import Json
from waymax_sim.evaluation.summary import by_scene, number

# Changes below this part of a number are round-off.
ROUND_OFF = 1e-6


def compare(a: Path, b: Path) -> list[Json]:
    """What changed from one evaluation to another, for each policy and traffic that both have.

    Where each has a single policy and traffic, these are compared, whatever they are. Scenes are known by name of file,
    record and id; those that only one has are left out. Means over seeds are compared.

    Args:
      a: Folder of the first evaluation.
      b: Folder of the second.

    Returns:
      For each pair the number of scenes that both have, those that were of other content, and for each metric the mean
      difference (b - a) with its interval, how many scenes got better and worse, and which changed, the largest change
      first.

    Raises:
      ValueError: A folder holds no finished evaluation, or they have nothing in common.
    """
    (rows_a, metrics_a), (rows_b, metrics_b) = _read(a), _read(b)
    pairs_a, pairs_b = _pairs(rows_a), _pairs(rows_b)
    both = [(pair, pair) for pair in pairs_a if pair in pairs_b]
    if not both and len(pairs_a) == len(pairs_b) == 1:
        both = [(*pairs_a, *pairs_b)]
    names = [name for name in metrics_a if name in metrics_b]
    if not both or not names:
        raise ValueError(f"{a} and {b} have no policy, traffic and metric in common")
    better = {name: metrics_a[name]["better"] for name in names}
    return [
        {
            "a": dict(zip(("policy", "traffic"), one, strict=True)),
            "b": dict(zip(("policy", "traffic"), other, strict=True)),
        }
        | _difference(pairs_a[one], pairs_b[other], better)
        for one, other in both
    ]


def _difference(rows_a: Sequence[Json], rows_b: Sequence[Json], better: dict[str, str]) -> Json:
    (scenes_a, table_a), (scenes_b, table_b) = by_scene(rows_a, better), by_scene(rows_b, better)
    about_a, about_b = ({row["index"]: row for row in rows} for rows in (rows_a, rows_b))
    place_b = {_scene(about_b[index]): place for place, index in enumerate(scenes_b)}
    both = [
        (place, place_b[_scene(about_a[index])])
        for place, index in enumerate(scenes_a)
        if _scene(about_a[index]) in place_b
    ]
    ours, theirs = table_a[[one for one, _ in both]], table_b[[other for _, other in both]]
    scenes = [about_a[scenes_a[one]] for one, _ in both]
    digests = [about_b[scenes_b[other]]["digest"] for _, other in both]
    difference = theirs - ours
    means, low, high = bootstrap(difference)
    # Where a number is defined in one run alone, the scene has changed too, but there is no difference.
    scale = np.maximum(np.abs(ours), np.abs(theirs))
    changed = (np.abs(difference) > ROUND_OFF * scale) | (np.isnan(ours) != np.isnan(theirs))

    def of_metric(place: int, name: str) -> Json:
        gain = difference[:, place] * (1 if better[name] == "higher" else -1)
        rows = np.flatnonzero(changed[:, place])
        rows = rows[np.argsort(-np.nan_to_num(np.abs(gain[rows])), kind="stable")]
        return {
            "difference": number(means[place]),
            "low": number(low[place]),
            "high": number(high[place]),
            "num_better": int(np.sum(gain[rows] > 0)),
            "num_worse": int(np.sum(gain[rows] < 0)),
            "changed": [
                {key: scenes[row][key] for key in ("file", "record", "scenario_id")}
                | {"a": number(ours[row, place]), "b": number(theirs[row, place])}
                for row in rows
            ],
        }

    return {
        "num_scenes": len(both),
        "num_other_content": sum(scene["digest"] != other for scene, other in zip(scenes, digests, strict=True)),
        "metrics": {name: of_metric(place, name) for place, name in enumerate(better)},
    }


def _read(folder: Path) -> tuple[list[Json], Json]:
    rows, summary = folder / "rows.jsonl", folder / "summary.json"
    if not rows.is_file() or not summary.is_file():
        raise ValueError(f"{folder} holds no finished evaluation; finish it with `waymax-sim evaluate`")
    return report.read_rows(rows), report.read_json(summary)["conditions"]["metrics"]


def _pairs(rows: Sequence[Json]) -> dict[tuple[str, str], list[Json]]:
    found: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        found.setdefault((row["policy"], row["traffic"]), []).append(row)
    return found


def _scene(row: Json) -> tuple[str, int, str]:
    return Path(row["file"]).name, row["record"], row["scenario_id"]
