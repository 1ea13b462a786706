"""Comparison of two evaluations of the same scenes: paired differences and changed scenes."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from waymax_sim.evaluation.confidence import bootstrap, optional_float
from waymax_sim.evaluation.summary import scene_means
from waymax_sim.results_dir import ROWS, Json, read_json, read_rows

# Relative change below which a value counts as unchanged.
MAX_RELATIVE_ROUND_OFF = 1e-6

# Policy and traffic.
Pair = tuple[str, str]


def compare_runs(a: Path, b: Path, policies: Sequence[Pair] = ()) -> list[Json]:
    """Differences between two evaluations, for each policy and traffic that both have.

    Where each has a single policy and traffic, these are compared, even if their names differ. Scenes are identified by
    file name, record and id; those of a single evaluation are left out. Means over seeds are compared.

    Args:
      a: Directory of the first evaluation.
      b: Directory of the second; it may be the first one.
      policies: Pairs of a policy of the first evaluation and one of the second, compared among each traffic that both
        have, or among their only ones; by default policies of equal names.

    Returns:
      For each pair the number of common scenes, the number of those with different content, and for each metric the
      mean difference (b - a) with its interval, the numbers of improved and degraded scenes, and the changed scenes,
      the largest change first.

    Raises:
      ValueError: A directory holds no finished evaluation, a policy is not in it, or the two have nothing in common.
    """
    (rows_a, summary_a), (rows_b, summary_b) = read_evaluation(a), read_evaluation(b)
    metrics_a, metrics_b = (summary["conditions"]["metrics"] for summary in (summary_a, summary_b))
    pairs_a, pairs_b = _pairs(rows_a), _pairs(rows_b)
    if policies:
        both = [pair for one, other in policies for pair in _pair_policies(pairs_a, pairs_b, one, other)]
    else:
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


def parse_pair(text: str, a: Path, b: Path) -> tuple[str, str]:
    """The policies of a text such as "idm=pdm", the first of one evaluation and the second of another.

    Names may contain "=" themselves, as those of policies with parameters do.

    Args:
      text: The text.
      a: Directory of the first evaluation.
      b: Directory of the second.

    Raises:
      ValueError: It does not name a policy of each evaluation, or names them ambiguously.
    """
    names_a, names_b = (list(dict.fromkeys(row["policy"] for row in read_evaluation(path)[0])) for path in (a, b))
    splits = [(text[:end], text[end + 1 :]) for end, char in enumerate(text) if char == "="]
    members = [(one, other) for one, other in splits if one in names_a and other in names_b]
    if len(members) != 1:
        known = f"policies of {a}: {', '.join(names_a)}; of {b}: {', '.join(names_b)}"
        raise ValueError(f"{text!r} is not FIRST=SECOND with a policy of each evaluation ({known})")
    return members[0]


def _pair_policies(
    pairs_a: Collection[Pair], pairs_b: Collection[Pair], one: str, other: str
) -> list[tuple[Pair, Pair]]:
    """Pairs of policy and traffic with the given policies, among each common traffic or the only one of each."""
    traffic_a = [traffic for policy, traffic in pairs_a if policy == one]
    traffic_b = [traffic for policy, traffic in pairs_b if policy == other]
    both = [(traffic, traffic) for traffic in traffic_a if traffic in traffic_b]
    if not both and len(traffic_a) == len(traffic_b) == 1:
        both = [(*traffic_a, *traffic_b)]
    return [((one, first), (other, second)) for first, second in both]


def _difference(rows_a: Sequence[Json], rows_b: Sequence[Json], better: dict[str, str]) -> Json:
    (scenes_a, table_a), (scenes_b, table_b) = scene_means(rows_a, better), scene_means(rows_b, better)
    row_a, row_b = ({row["index"]: row for row in rows} for rows in (rows_a, rows_b))
    position_b = {_scene_key(row_b[index]): position for position, index in enumerate(scenes_b)}
    both = [
        (position, position_b[_scene_key(row_a[index])])
        for position, index in enumerate(scenes_a)
        if _scene_key(row_a[index]) in position_b
    ]
    values_a, values_b = table_a[[one for one, _ in both]], table_b[[other for _, other in both]]
    scenes = [row_a[scenes_a[one]] for one, _ in both]
    digests = [row_b[scenes_b[other]]["digest"] for _, other in both]
    difference = values_b - values_a
    means, low, high = bootstrap(difference)
    # Where a value is valid in one run alone, the scene has changed, but the difference is undefined.
    scale = np.maximum(np.abs(values_a), np.abs(values_b))
    changed = (np.abs(difference) > MAX_RELATIVE_ROUND_OFF * scale) | (np.isnan(values_a) != np.isnan(values_b))

    def metric_difference(column: int, name: str) -> Json:
        gain = difference[:, column] * (1 if better[name] == "higher" else -1)
        rows = np.flatnonzero(changed[:, column])
        rows = rows[np.argsort(-np.nan_to_num(np.abs(gain[rows])), kind="stable")]
        return {
            "difference": optional_float(means[column]),
            "low": optional_float(low[column]),
            "high": optional_float(high[column]),
            "num_better": int(np.sum(gain[rows] > 0)),
            "num_worse": int(np.sum(gain[rows] < 0)),
            "changed": [
                {key: scenes[row][key] for key in ("file", "record", "scenario_id")}
                | {"a": optional_float(values_a[row, column]), "b": optional_float(values_b[row, column])}
                for row in rows
            ],
        }

    return {
        "num_scenes": len(both),
        "num_other_content": sum(scene["digest"] != other for scene, other in zip(scenes, digests, strict=True)),
        "metrics": {name: metric_difference(column, name) for column, name in enumerate(better)},
    }


def read_evaluation(directory: Path) -> tuple[list[Json], Json]:
    """The rows and the summary of a finished evaluation.

    Raises:
      ValueError: The directory holds none.
    """
    rows, summary = directory / ROWS, directory / "summary.json"
    if not rows.is_file() or not summary.is_file():
        raise ValueError(f"{directory} holds no finished evaluation; finish it with `waymax-sim evaluate`")
    return read_rows(rows), read_json(summary)


def _pairs(rows: Sequence[Json]) -> dict[Pair, list[Json]]:
    pairs: dict[Pair, list[Json]] = {}
    for row in rows:
        pairs.setdefault((row["policy"], row["traffic"]), []).append(row)
    return pairs


def _scene_key(row: Json) -> tuple[str, int, str]:
    return Path(row["file"]).name, row["record"], row["scenario_id"]
