"""Distillation, quantized weights and uncertainty-routed decoding of the decoder of modalities (`gemini.py`)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.scene_decoder.modality_decoder import ModalityModel, presence
from behavior_models.scene_decoder.modality_evaluation import drive, drive_metrics, straight_middle
from behavior_models.scene_decoder.modality_tokens import SceneTokens
from behavior_models.scene_decoder.quantization import (
    INT4,
    INT4_PER_TENSOR,
    INT8,
    dequantize,
    quantize,
    stored_bytes,
)
from behavior_models.scene_decoder.routing import RoutingParams, find_consensus, tune_threshold, uses_consensus
from examples.reproductions.gemini_common import (
    JOINT,
    STUDENT,
    TEST,
    TRAINING,
    TUNING,
    Bed,
    Study,
    interval_text,
    mean_nll,
    part,
    train,
)
from examples.reproductions.waymax_common import Criterion, effect_share, mean_interval

# 97.5 % quantiles of the t distribution by degrees of freedom.
T_QUANTILE = (np.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# Share of cells that are occupied by clutter.
CLUTTER = 0.02
# Decisions of a future: four seconds, past the obstacles.
FUTURE = 8
THRESHOLDS = (0.0, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.01)


def distillation(study: Study, joint: list[Any], train_data: SceneTokens, bed: Bed) -> list[Criterion]:
    """N4: students with and without a teacher, and quantized weights.

    Args:
      study: Sizes and folder.
      joint: Decoders of each seed; the first one is the teacher.
      train_data: Drives of training.
      bed: Drives of the test.
    """
    model, student = ModalityModel(JOINT), ModalityModel(STUDENT)
    settings: dict[str, Any] = {"updates": study.student_updates}
    nll: dict[str, np.ndarray] = {}
    for arm, teacher in (("scratch", None), ("distilled", (model, joint[0]))):
        runs = [
            train(study, f"student-{arm}", student, train_data, seed, teacher=teacher, **settings)
            for seed in range(study.student_seeds)
        ]
        nll[arm] = np.array([mean_nll(student, params, bed) for params in runs])
    teacher_nll = mean_nll(model, joint[0], bed)
    gain = nll["scratch"] - nll["distilled"]
    half = t_half_width(gain)
    share = effect_share(gain.mean(), nll["scratch"].mean() - teacher_nll)
    print(
        f"\nteacher ({model.num_parameters} parameters): {teacher_nll:.4f} nats; students ({student.num_parameters}):"
    )
    for arm, values in nll.items():
        print(f"{arm}: {values.mean():.4f}, seeds {', '.join(f'{value:.4f}' for value in values)}")
    criteria = [
        Criterion("N4 gain by distillation, lower bound over seeds", gain.mean() - half, low=1e-9),
        Criterion("N4 share of the difference to the teacher", share, low=0.3),
    ]
    return criteria + quantized(model, joint, bed)


def t_half_width(values: np.ndarray) -> float:
    """Half of the width of the 95 % t-interval of a mean."""
    return float(T_QUANTILE[len(values) - 1] * np.std(values, ddof=1) / np.sqrt(len(values)))


def quantized(model: ModalityModel, joint: list[Any], bed: Bed) -> list[Criterion]:
    """Increase of the negative log-likelihood by quantized weights, mean over seeds, and the size of the weights.

    Args:
      model: The decoder.
      joint: Decoders of each seed.
      bed: Drives of the test.
    """
    exact = np.array([mean_nll(model, params, bed) for params in joint])
    increase, formats = {}, {"int8": INT8, "int4 in groups": INT4, "int4 per matrix": INT4_PER_TENSOR}
    print(f"weights of 32 bits: {stored_bytes(joint[0])} bytes")
    for name, config in formats.items():
        stored = [quantize(params, config) for params in joint]
        rounded = np.array([mean_nll(model, dequantize(params), bed) for params in stored])
        increase[name] = rounded / exact - 1
        print(
            f"{name}: {stored_bytes(stored[0])} bytes, increase {increase[name].mean():.3%}, "
            f"largest {increase[name].max():.3%}"
        )
    worse = np.min(increase["int4 per matrix"] / np.maximum(increase["int4 in groups"], 1e-6))
    return [
        Criterion("N4 increase by int8, largest of all seeds", increase["int8"].max(), high=0.005),
        Criterion("N4 increase by int4 in groups, largest of all seeds", increase["int4 in groups"].max(), high=0.03),
        Criterion("N4 control: int4 per matrix over int4 in groups, smallest ratio", worse, low=2.0),
    ]


def thin_raster(bed: Bed, seed: int) -> Bed:
    """The drives with obstacles of which a random share of the cells is visible, and with clutter.

    Args:
      bed: Drives.
      seed: Seed of the sensor.
    """
    rng = np.random.default_rng([seed, 2])
    raster = np.asarray(bed.tokens.raster)
    share = rng.uniform(0.0, 0.6, (len(raster), 1, 1))
    visible = (raster > 0) & (rng.random(raster.shape) < share)
    clutter = rng.random(raster.shape) < CLUTTER
    return dataclasses.replace(
        bed, tokens=dataclasses.replace(bed.tokens, raster=(visible | clutter).astype(np.float32))
    )


def futures(model: ModalityModel, params: Any, bed: Bed, seed: int) -> dict[str, np.ndarray]:
    """Share of the consensus, and whether medoid and greedy future meet an obstacle, of each drive.

    Args:
      model: The decoder.
      params: Its parameters.
      bed: Drives.
      seed: Seed of the samples.
    """
    count, params_of_routing = bed.tokens.label.shape[0], RoutingParams()
    present, middle = presence(lead=(count,)), straight_middle(bed.situation)
    keys = jax.random.split(jax.random.key(seed), params_of_routing.num_samples)
    ends, entries = [], []
    for index in range(params_of_routing.num_samples + 1):
        temperature = 0.0 if index == params_of_routing.num_samples else 1.0
        key = keys[index % params_of_routing.num_samples]
        drives = drive(model, params, bed.tokens, present, key, temperature, FUTURE)
        ends.append(np.asarray(drives.state.xy[-1]))
        entries.append(np.asarray(drive_metrics(drives, bed.situation, middle)["closed_lane"].value))
    radius = params_of_routing.cluster_radius
    consensus = jax.vmap(lambda points: find_consensus(points, radius))(jnp.asarray(np.stack(ends[:-1], axis=1)))
    medoid = np.stack(entries[:-1], axis=1)[np.arange(count), np.asarray(consensus.medoid)]
    return {
        "share": np.asarray(consensus.share),
        "medoid": medoid,
        "greedy": entries[-1],
        "sample": np.mean(entries[:-1], axis=0),
    }


def stored_futures(
    study: Study, model: ModalityModel, params: Any, bed: Bed, name: int, seed: int
) -> dict[str, np.ndarray]:
    """Futures as a part."""
    return part(study, f"futures-{name}-{seed}", lambda: futures(model, params, bed, seed))


def routing(study: Study, beds: dict[int, Bed]) -> list[Criterion]:
    """N5: routed, majority and greedy futures before a lane whose obstacles are hard to see.

    Args:
      study: Sizes and folder.
      beds: Drives of training, tuning and test.
    """
    thin = {seed: thin_raster(bed, seed) for seed, bed in beds.items()}
    model, rows = ModalityModel(JOINT), []
    for seed in range(study.other_seeds):
        params = train(study, "thin", model, thin[TRAINING].tokens, seed)
        stored = {name: stored_futures(study, model, params, thin[name], name, seed) for name in (TUNING, TEST)}
        rows.append(stored)
    tuning, test = (
        {key: np.concatenate([row[name][key] for row in rows]) for key in ("share", "medoid", "greedy", "sample")}
        for name in (TUNING, TEST)
    )
    threshold = tune_threshold(tuning["share"], tuning["medoid"], tuning["greedy"], THRESHOLDS)
    chosen = np.asarray(uses_consensus(test["share"], threshold))
    routed = np.where(chosen, test["medoid"], test["greedy"])
    scene = np.tile(np.arange(len(routed) // len(rows)), len(rows))
    print(f"\nMeetings with obstacles; threshold {threshold:g}, used in {chosen.mean():.0%} of the drives")
    for name, values in {
        "sample": test["sample"],
        "greedy": test["greedy"],
        "majority": test["medoid"],
        "routed": routed,
    }.items():
        print(f"{name}: {interval_text(mean_interval(values, scene))}")
    best = min(test["greedy"].mean(), test["medoid"].mean())
    uncertain = test["share"] < 0.75
    return [
        Criterion("N5 routed minus the better one of greedy and majority", routed.mean() - best, high=0.0),
        Criterion("N5 share of drives whose consensus is less than 3/4", uncertain.mean(), low=0.1),
    ]
