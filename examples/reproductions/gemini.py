"""Mechanisms of the Gemini 1.0 report (arXiv 2312.11805) on drives with five modalities, with controls.

    python -m examples.reproductions.gemini --out runs/gemini [--quick]

N1: removal of one modality at test time impairs its own metric alone; trained with the lights of other drives, a
decoder does not need them. N2: one decoder of all modalities against decoders that were trained without one of them,
and against late fusion. N4: distillation and quantized weights. N5: uncertainty-routed decoding in front of a lane
whose obstacles are hard to see. N6: replay of training steps. N3, the invariance to the order of tokens, is a unit
test. Parts in the folder are used again.
"""

import json
import shutil
from typing import Any

import jax
import numpy as np
import tyro

from behavior_models.scene_decoder.modality_decoder import ModalityModel
from behavior_models.scene_decoder.modality_evaluation import METRIC_OF_MODALITY
from behavior_models.scene_decoder.modality_tokens import MODALITIES, SceneTokens
from behavior_models.scene_decoder.modality_training import (
    ModalityTraining,
    ModalityTrainingConfig,
    parameter_checksum,
    permute_lights,
)
from behavior_models.training.saver import Saver
from examples.reproductions.gemini_common import (
    JOINT,
    LATE,
    SPECIALISTS,
    STUDENT,
    TEST,
    TRAINING,
    TUNING,
    Bed,
    Study,
    evaluate,
    interval_text,
    load_bed,
    nll_ratio,
    paired_effect,
    rate,
    train,
)
from examples.reproductions.gemini_decoding import distillation, routing
from examples.reproductions.waymax_common import Criterion, effect_share, table_line

MATRIX_METRICS = tuple(METRIC_OF_MODALITY.values())


def conditions(study: Study, name: str, model: ModalityModel, params: list[Any], bed: Bed) -> dict[str, list]:
    """Evaluations of each seed with all modalities, and without each of them.

    Args:
      study: Sizes and folder.
      name: Name of the arm.
      model: The decoder.
      params: Parameters of each seed.
      bed: Drives of the evaluation.
    """
    removals = {"none": (), **{modality: (modality,) for modality in MODALITIES}}
    return {
        label: [evaluate(study, name, model, own, bed, seed, removed) for seed, own in enumerate(params)]
        for label, removed in removals.items()
    }


def necessity(study: Study, joint: list[Any], control: list[Any], bed: Bed) -> list[Criterion]:
    """N1: the matrix of removed modalities and metrics, and its control.

    Args:
      study: Sizes and folder.
      joint: Decoders of each seed.
      control: Decoders that were trained with the lights of other drives.
      bed: Drives of the test.
    """
    model, criteria = ModalityModel(JOINT), []
    normal = conditions(study, "joint", model, joint, bed)
    print("\nRates with all modalities, and changes by the removal of one: mean and 95 % interval over drives")
    print(table_line("removed", dict.fromkeys(METRIC_OF_MODALITY.values(), "") | {n: n for n in MATRIX_METRICS}))
    print("|" + "---|" * (1 + len(MATRIX_METRICS)))
    print(table_line("none", {metric: interval_text(rate(normal["none"], metric)) for metric in MATRIX_METRICS}))
    effects = {name: {m: paired_effect(normal["none"], normal[name], m) for m in MATRIX_METRICS} for name in MODALITIES}
    for name in MODALITIES:
        print(table_line(name, {metric: interval_text(effects[name][metric]) for metric in MATRIX_METRICS}))
    for name, metric in METRIC_OF_MODALITY.items():
        own = effects[name][metric]
        criteria += [Criterion(f"N1 {name}: increase of {metric}, lower bound", own[1], low=1e-9)]
        other = {removed: effects[removed][metric] for removed in MODALITIES if removed != name}
        worst = max(other, key=lambda removed: other[removed][0])
        share = effect_share(other[worst][0], own[0])
        criteria += [Criterion(f"N1 {metric}: largest other effect ({worst}) over that of {name}", share, high=0.25)]
        largest = max(values[2] for values in other.values())
        bound = effect_share(largest, own[1])
        criteria += [Criterion(f"N1 {metric}: the same with the bounds of both intervals", bound, high=0.5)]
    chance = rate(normal["route"], "off_route")
    criteria += [
        Criterion("N1 off_route without the route, lower bound: at most chance", chance[1], high=2 / 3),
        Criterion("N1 off_route without the route, upper bound: at least chance", chance[2], low=2 / 3),
    ]
    permuted = conditions(study, "control", model, control, bed)
    effect = paired_effect(permuted["none"], permuted["lights"], "red_light")
    print(
        "control, lights of other drives: red_light",
        interval_text(rate(permuted["none"], "red_light")),
        "change without lights",
        interval_text(effect),
    )
    share = effect_share(effect[2], effects["lights"]["red_light"][0])
    return [
        *criteria,
        Criterion("N1 control: upper bound of its effect of lights over the normal one", share, high=0.25),
    ]


def specialists(study: Study, joint: list[Any], train_data: SceneTokens, bed: Bed) -> list[Criterion]:
    """N2: one decoder against specialists and late fusion.

    Args:
      study: Sizes and folder.
      joint: Decoders of each seed.
      train_data: Drives of training.
      bed: Drives of the test.
    """
    model, criteria, seeds = ModalityModel(JOINT), [], range(min(study.other_seeds, len(joint)))
    print("\nRelative difference of the negative log-likelihood: mean and 95 % interval over drives")
    for name in SPECIALISTS:
        arm = f"without-{name}"
        own = [train(study, arm, model, train_data, seed, removed=(name,)) for seed in seeds]
        special = [evaluate(study, arm, model, params, bed, seed, (name,)) for seed, params in enumerate(own)]
        general = [evaluate(study, "joint", model, joint[seed], bed, seed, (name,)) for seed in seeds]
        ratio = nll_ratio(general, special)
        print(f"all modalities in training, against training without {name}, both without it: {interval_text(ratio)}")
        criteria += [Criterion(f"N2 decoder of all modalities over the specialist without {name}", ratio[0], high=0.02)]
    late_model = ModalityModel(LATE)
    late = [train(study, "late", late_model, train_data, seed) for seed in seeds]
    late_rows = [evaluate(study, "late", late_model, params, bed, seed) for seed, params in enumerate(late)]
    joint_rows = [evaluate(study, "joint", model, joint[seed], bed, seed) for seed in seeds]
    ratio = nll_ratio(joint_rows, late_rows)
    counts = model.num_parameters, late_model.num_parameters
    print(f"one decoder ({counts[0]} parameters) against late fusion ({counts[1]}): {interval_text(ratio)}")
    return [*criteria, Criterion("N2 one decoder over late fusion, upper bound", ratio[2], high=0.0)]


def replay(study: Study, data: SceneTokens) -> list[Criterion]:
    """N6: training steps from a checkpoint have the same losses and parameters, to the bit.

    Args:
      study: Sizes and folder.
      data: Drives of training.
    """
    training = ModalityTraining(ModalityModel(STUDENT), ModalityTrainingConfig(20, 1))
    step, state = jax.jit(training.train_step), training.init(jax.random.key(0))
    folder, losses = study.out / "replay", []
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(20):
        if number == 10:
            Saver(folder).save(number, state)
        state, scalars = step(state, data)
        losses.append(float(scalars["loss"]))
    number, again, _ = Saver(folder).restore(training.init(jax.random.key(1)))
    differences = []
    for index in range(number, 20):
        again, scalars = step(again, data)
        differences.append(abs(float(scalars["loss"]) - losses[index]))
    equal = parameter_checksum(again.params) == parameter_checksum(state.params)
    print(f"\nreplay of {len(differences)} steps, checksum {parameter_checksum(state.params):08x}")
    return [
        Criterion("N6 largest difference of ten losses after a restart", max(differences, default=np.nan), high=0.0),
        Criterion("N6 equal checksums of the parameters", float(equal), low=1.0),
    ]


def main(study: Study) -> list[Criterion]:
    """Prints tables and criteria, and stores the criteria in `report.json`."""
    study = study.sizes()
    counts = {TRAINING: study.drives, TUNING: study.test_drives, TEST: study.test_drives}
    beds = {seed: load_bed(study, seed, count) for seed, count in counts.items()}
    data, bed, model = beds[TRAINING].tokens, beds[TEST], ModalityModel(JOINT)
    joint = [train(study, "joint", model, data, seed) for seed in range(study.seeds)]
    permuted = permute_lights(data, jax.random.key(0))
    control = [train(study, "control", model, permuted, seed) for seed in range(study.other_seeds)]
    criteria = necessity(study, joint, control, bed)
    criteria += distillation(study, joint, data, bed)
    criteria += routing(study, beds)
    criteria += replay(study, data)
    criteria += specialists(study, joint, data, bed)
    for criterion in criteria:
        print(criterion)
    report = [{"name": each.name, "value": each.value, "passed": each.passed} for each in criteria]
    (study.out / "report.json").write_text(json.dumps(report, indent=1))
    return criteria


if __name__ == "__main__":
    main(tyro.cli(Study))
