"""Features, estimators and weights: the configurations of the Waymo Open Sim Agents Challenge by year."""

import dataclasses
from typing import Literal

Bucket = Literal["kinematic", "interactive", "map_based"]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Equal bins between two values; values outside count in the first or the last bin.

    Attributes:
      low: Lower end of the first bin, in the unit of the feature.
      high: Upper end of the last bin.
      num_bins: Number of bins.
      pseudocount: Added to the count of every bin, so that no bin is impossible.
      per_step: One distribution for each step of an agent instead of one for all its steps.
    """

    low: float
    high: float
    num_bins: int
    pseudocount: float = 0.1
    per_step: bool = False


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """The probability of an event, which happens or not in each rollout.

    Attributes:
      pseudocount: Added to the counts of yes and of no.
    """

    pseudocount: float = 0.001


@dataclasses.dataclass(frozen=True)
class RealismFeature:
    """A scored feature.

    Attributes:
      name: Official name.
      bucket: Group of features with a common score.
      estimator: Estimator of the distribution of rollouts.
      weight: Share of the meta-metric.
    """

    name: str
    bucket: Bucket
    estimator: Histogram | Bernoulli
    weight: float


@dataclasses.dataclass(frozen=True)
class RealismConfig:
    """The features and weights of a year.

    Attributes:
      name: Official name.
      features: The ten scored features.
      pool_agents: One distribution per scene instead of one per agent.
      evaluate: Scored agents: the sdc and those listed to be predicted, or all simulated agents.
    """

    name: str
    features: tuple[RealismFeature, ...]
    pool_agents: bool = False
    evaluate: Literal["listed", "all"] = "listed"


def _features(bins: dict[str, tuple[float, float, int]], weights: tuple[float, ...]) -> tuple[RealismFeature, ...]:
    names: dict[str, Bucket] = {
        "linear_speed": "kinematic",
        "linear_acceleration": "kinematic",
        "angular_speed": "kinematic",
        "angular_acceleration": "kinematic",
        "distance_to_nearest_object": "interactive",
        "collision_indication": "interactive",
        "time_to_collision": "interactive",
        "distance_to_road_edge": "map_based",
        "offroad_indication": "map_based",
        "traffic_light_violation": "map_based",
    }
    return tuple(
        RealismFeature(name, bucket, Histogram(*bins[name]) if name in bins else Bernoulli(), weight)
        for (name, bucket), weight in zip(names.items(), weights, strict=True)
    )


_DISTANCE_AND_TIME_BINS = {
    "distance_to_nearest_object": (-5.0, 40.0, 10),
    "time_to_collision": (0.0, 5.0, 10),
    "distance_to_road_edge": (-20.0, 40.0, 10),
}
_BINS_2023 = _DISTANCE_AND_TIME_BINS | {
    "linear_speed": (0.0, 35.0, 10),
    "linear_acceleration": (-15.0, 15.0, 10),
    "angular_speed": (-31.5, 31.5, 10),
    "angular_acceleration": (-31.5, 31.5, 10),
}
_BINS_2024 = _DISTANCE_AND_TIME_BINS | {
    "linear_speed": (0.0, 25.0, 10),
    "linear_acceleration": (-12.0, 12.0, 11),
    "angular_speed": (-0.628, 0.628, 11),
    "angular_acceleration": (-3.14, 3.14, 11),
}
# Weights in the order of the features. Red lights were not scored before 2025.
_FEATURES_2023 = _features(_BINS_2023, (0.09, 0.09, 0.09, 0.09, 0.09, 0.18, 0.09, 0.09, 0.18, 0.0))
_FEATURES_2024 = _features(_BINS_2024, (0.05, 0.05, 0.05, 0.05, 0.10, 0.25, 0.10, 0.10, 0.25, 0.0))
_FEATURES_2025 = _features(_BINS_2024, (0.05, 0.05, 0.05, 0.05, 0.10, 0.25, 0.10, 0.05, 0.25, 0.05))

# By name. All use the features of 2025, so scores of 2023 and 2024 are not those published in these years.
CONFIGS = {
    config.name: config
    for config in (
        RealismConfig("2023", _FEATURES_2023),
        RealismConfig("2024", _FEATURES_2024),
        RealismConfig("2025", _FEATURES_2025),
        RealismConfig("2025_scenario_generation", _FEATURES_2025, pool_agents=True, evaluate="all"),
    )
}
