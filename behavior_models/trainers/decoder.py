"""Training of the scene decoder."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import waymax_sim as ws
from behavior_models.scene_decoder.checkpoint import decoder_policy, load_decoder, save_decoder
from behavior_models.scene_decoder.closed_loop import ClosedLoopConfig, ClosedLoopTraining
from behavior_models.scene_decoder.decoder import DecoderConfig, DecoderModel
from behavior_models.scene_decoder.motion_tokens import Vocabulary, load_vocabulary, save_vocabulary
from behavior_models.scene_decoder.policy import DecoderPolicy
from behavior_models.scene_decoder.realism_reward import REALISM_ENV, RealismTraining
from behavior_models.scene_decoder.records import (
    SceneRecord,
    load_records,
    record_scene,
    save_records,
)
from behavior_models.scene_decoder.tracks import Tracks, build_tracks
from behavior_models.scene_decoder.training import DecoderTraining, DecoderTrainingConfig, mean_nll, track_nll
from behavior_models.scene_decoder.vocabulary import build_vocabulary, segments
from behavior_models.trainers.common import (
    compile_seeds,
    open_folder,
    run,
    seed_params,
    training_keys,
    training_mesh,
)
from behavior_models.trainers.options import DecoderOptions
from behavior_models.training.devices import put_on_devices
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import GOAL_TASK
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.env.bank import build_bank
from waymax_sim.pytree import stack, tree_index

# Scenes of a file of records.
RECORDS_PER_FILE = 50
# Scenes whose segments the motion tokens are built from.
MAX_VOCABULARY_SCENES = 300
VOCABULARY_FILE = "vocabulary.npz"


def train_decoder(options: DecoderOptions) -> DecoderPolicy:
    """Trains by cross entropy of the next motion tokens, from random parameters or from those of a policy."""
    open_folder(options)
    start = None if options.start is None else load_decoder(options.start)
    if start is not None and options.objective == "realism":
        return _fine_tune(options, start, *_realism(options, start))
    records = stored_records(options.data, options.out / "scenes")
    if start is not None and options.objective != "tokens":
        return _fine_tune(options, start, *_closed_loop(options, start, records))
    vocabulary = start.vocabulary if start else training_vocabulary(records, options.out / VOCABULARY_FILE)
    model = start.model if start else DecoderModel(DecoderConfig(vocabulary.sizes))
    learner = DecoderTraining(model, training_config(options, DecoderTrainingConfig()))
    mesh = training_mesh(options) if options.seeds > 1 else None
    data = put_on_devices(jax.device_put(build_tracks(vocabulary, records, model.config.tokens)), mesh, True)
    step = compile_seeds(options, learner.train_step, mesh)
    keys = put_on_devices(training_keys(options), mesh, False)
    params = None if start is None else jax.device_put(start.params)
    state = compile_seeds(options, lambda key: learner.init(key, params), mesh)(keys)
    loop = LoopConfig(learner.config.num_steps, log_every=5, save_every=10)
    return _run(options, model, vocabulary, state, lambda state: step(state, data), loop)


def training_config(options: DecoderOptions, config: DecoderTrainingConfig) -> DecoderTrainingConfig:
    """The hyperparameters of the options.

    Args:
      options: Inputs and outputs.
      config: The defaults of the objective.
    """
    return dataclasses.replace(
        config,
        label_smoothing=options.label_smoothing,
        modality_dropout=options.modality_dropout,
        num_steps=options.num_steps or config.num_steps,
        learning_rate=options.learning_rate or config.learning_rate,
    )


def _closed_loop(
    options: DecoderOptions, start: DecoderPolicy, records: list[SceneRecord]
) -> tuple[ClosedLoopTraining, Any]:
    """The fine-tuning on visited states, and its data."""
    choice = "closest" if options.objective == "cat-k" else "sample"
    optimization = training_config(options, ClosedLoopTraining.optimization)
    learner = ClosedLoopTraining(start.model, ClosedLoopConfig(choice, options.num_best), optimization)
    return learner, (start.vocabulary, stack(records))


def _realism(options: DecoderOptions, start: DecoderPolicy) -> tuple[RealismTraining, Any]:
    """The fine-tuning with realism as reward, and its data."""
    scenarios = ws.load(options.data, pad_to_bucket=False)
    bank = build_bank([pad_to_class(scenario) for scenario in scenarios], REALISM_ENV)
    learner = RealismTraining(start.model, optimization=training_config(options, RealismTraining.optimization))
    return learner, (start.vocabulary, bank, start.params)


def _fine_tune(
    options: DecoderOptions, start: DecoderPolicy, learner: ClosedLoopTraining | RealismTraining, data: Any
) -> DecoderPolicy:
    """The fine-tuning of a decoder."""
    device_data, step = jax.device_put(data), jax.jit(learner.train_step)
    state = jax.jit(learner.init)(jax.random.key(options.seed), jax.device_put(start.params))
    loop = LoopConfig(learner.optimization.num_steps, log_every=1, save_every=5)
    return _run(options, start.model, start.vocabulary, state, lambda state: step(state, device_data), loop)


def _run(
    options: DecoderOptions, model: DecoderModel, vocabulary: Vocabulary, state: Any, step: Any, loop: LoopConfig
) -> DecoderPolicy:
    """The training with its evaluations, and the stored policy."""
    evaluate = held_out_evaluation(options, model, vocabulary)
    state = run(options, GOAL_TASK, state, step, loop, lambda params: _no_actor(), evaluate=evaluate)
    return save_policies(options, model, state.params, vocabulary)


def stored_records(path: str, folder: Path) -> list[SceneRecord]:
    """The records of all usable scenes, from files in a folder; those that are missing are made.

    Args:
      path: See `waymax_sim.load`.
      folder: Folder of the files.

    Raises:
      ValueError: There is no scene.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenarios = ws.load(path, pad_to_bucket=False)
    records: list[SceneRecord] = []
    for number, begin in enumerate(range(0, len(scenarios), RECORDS_PER_FILE)):
        file = folder / f"records_{number:05d}.npz"
        if not file.exists():
            indices = range(begin, min(begin + RECORDS_PER_FILE, len(scenarios)))
            save_records(file, stack([record_scene(scenarios[index]) for index in indices]))
        records += list(single_records(load_records(file)))
    if not records:
        raise ValueError(f"{path} has no scenes")
    return records


def single_records(records: SceneRecord) -> Iterator[SceneRecord]:
    """The scenes of stacked records."""
    for index in range(len(records.valid)):
        yield tree_index(records, index)


def training_vocabulary(records: list[SceneRecord], file: Path) -> Vocabulary:
    """The motion tokens of a training, built from its first scenes unless the file has them.

    Args:
      records: Records of the training.
      file: File of the motion tokens.
    """
    if not file.exists():
        parts = [segments(item.pose, item.valid, item.classes) for item in records[:MAX_VOCABULARY_SCENES]]
        save_vocabulary(file, build_vocabulary(parts)[0])
    return load_vocabulary(file)


def held_out_evaluation(options: DecoderOptions, model: DecoderModel, vocabulary: Vocabulary) -> Any:
    """The evaluation of negative log-likelihoods on held-out scenes; None without any.

    Args:
      options: Inputs and outputs.
      model: The network.
      vocabulary: The motion tokens.
    """
    if options.held_out is None:
        return None
    records = stored_records(options.held_out, options.out / "held_out")
    tracks = build_tracks(vocabulary, records, model.config.tokens)

    def evaluate(state: Any) -> dict[str, Any]:
        rows = [held_out_nll(model, params, tracks) for params in seed_params(options, state.params)]
        return rows[0] if options.seeds == 1 else {name: np.array([row[name] for row in rows]) for name in rows[0]}

    return evaluate


def held_out_nll(model: DecoderModel, params: Any, tracks: Tracks) -> dict[str, float]:
    """Mean negative log-likelihoods of the tokens of all tracks, and of traveling agents, nats.

    Args:
      model: The network.
      params: Its parameters.
      tracks: Tracks.
    """
    nll = track_nll(model, params, tracks)
    return {"nll": mean_nll(nll), "nll_traveling": mean_nll(nll, np.asarray(tracks.is_traveling))}


def save_policies(options: DecoderOptions, model: DecoderModel, params: Any, vocabulary: Vocabulary) -> DecoderPolicy:
    """Writes the policy to the folder `policy`, or those of several seeds to `seed_0/policy`, ....

    Args:
      options: Inputs and outputs.
      model: The network.
      params: Its parameters, of all seeds.
      vocabulary: The motion tokens.

    Returns:
      The policy of the first seed.
    """
    policies = []
    for index, own in enumerate(seed_params(options, params)):
        facts = {"algorithm": options.algorithm, "command": options.command(), "seed": options.seed + index}
        folder = options.out / ("policy" if options.seeds == 1 else f"seed_{index}/policy")
        policies.append(decoder_policy(model, jax.device_get(own), vocabulary))
        save_decoder(folder, policies[-1], facts)
    return policies[0]


def _no_actor() -> Any:
    raise AssertionError("scene decoders are not evaluated by the rules of self-play")
