"""The scene decoder on held-out synthetic scenes and recorded ones: tokens, likelihood and realism, with controls.

    python -m examples.reproductions.scene_decoder --out runs/decoder [--policy FOLDER] [--womd "womd/*"]

Tokens (K1): errors of encoded tracks, and of tokens selected from the log as a control. Likelihood (K2): negative
log-likelihoods of traveling agents, four baselines, and the network without a modality. Realism (K3): meta-metric of
the decoder, of an untrained one, of one without other agents, and of rule-based policies in the same scenes. Results in
the folder are used again.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jaxtyping import Float

import waymax_sim as ws
from behavior_models import IDM, NoisyConstantVelocity, Stationary
from behavior_models.scene_decoder.checkpoint import load_decoder
from behavior_models.scene_decoder.closed_loop import coverage
from behavior_models.scene_decoder.modalities import Modalities
from behavior_models.scene_decoder.motion_tokens import SEGMENT_STEPS, decode, encode
from behavior_models.scene_decoder.policy import DecoderPolicy
from behavior_models.scene_decoder.records import SceneRecord
from behavior_models.scene_decoder.sampling import TokenSampling
from behavior_models.scene_decoder.tracks import build_tracks
from behavior_models.scene_decoder.training import track_nll
from behavior_models.trainers.decoder import stored_records
from examples.reproductions.scene_decoder_baselines import TokenTable, baseline_nll, mixture_nll, nll_by_speed
from examples.reproductions.waymax_common import Criterion, mean_interval, table_line
from waymax_sim.env import Policy
from waymax_sim.evaluation.realism import evaluate_realism
from waymax_sim.evaluation.realism.evaluate import RealismResult

RELEASED = Path(__file__).parents[2] / "behavior_models" / "checkpoints" / "decoder-nano"
# Values of K of the coverage, and modalities that are removed.
COVERAGE = (1, 3, 5, 8, 16, 32)
REMOVED = ("map", "lights", "agents", "history")
SCORES = ("meta_metric", "kinematic", "interactive", "map_based", "collision", "offroad")

_encode = jax.jit(encode, static_argnames=("restart", "closed_loop"))


@dataclasses.dataclass(frozen=True)
class Options:
    """Inputs and outputs.

    Attributes:
      out: Folder of the results.
      policy: Folder of the decoder; by default the released one.
      train: Scenes whose tokens the baselines count.
      test: Held-out scenes of tokens and likelihood.
      realism: Held-out scenes of realism.
      womd: Recorded scenes; none by default.
      rollouts: Rollouts of a scene.
      quick: Two scenes each, two rollouts, without rule-based policies: whether the parts run.
    """

    out: Path
    policy: Path = RELEASED
    train: str = "synthetic:0:300"
    test: str = "synthetic:901:100"
    realism: str = "synthetic:901:50"
    womd: str | None = None
    rollouts: int = 32
    quick: bool = False

    def reduced(self) -> "Options":
        """The options of the quick run."""
        if not self.quick:
            return self
        return dataclasses.replace(
            self, train="synthetic:0:2", test="synthetic:901:2", realism="synthetic:901:2", rollouts=2
        )


def main(options: Options) -> None:
    """Runs the parts that have no result yet, and prints the criteria."""
    options = options.reduced()
    options.out.mkdir(parents=True, exist_ok=True)
    policy = load_decoder(options.policy)
    sources = {"synthetic": options.test} | ({"womd": options.womd} if options.womd else {})
    criteria: list[Criterion] = []
    for name, path in sources.items():
        records = stored_records(path, options.out / f"records_{name}")
        tokens = stored(options.out / f"tokens_{name}.json", lambda records=records: token_errors(policy, records))
        criteria += token_criteria(name, tokens)
        nll = stored(
            options.out / f"likelihood_{name}.json",
            lambda records=records: likelihoods(policy, records, stored_records(options.train, options.out / "train")),
        )
        criteria += likelihood_criteria(name, nll)
    for name, path in {"synthetic": options.realism, **({"womd": options.womd} if options.womd else {})}.items():
        rows = {arm: realism_rows(options, name, path, arm, own) for arm, own in arms(policy, options.quick).items()}
        criteria += realism_criteria(name, rows)
    for criterion in criteria:
        print(criterion)


def stored(file: Path, compute: Callable[[], Any]) -> Any:
    """The content of a file, which is computed if it does not exist."""
    if not file.exists():
        file.write_text(json.dumps(compute(), indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def token_errors(policy: DecoderPolicy, records: list[SceneRecord]) -> dict[str, float]:
    """Corner errors of the tokens of traveling agents, m, of a control, and the share of tokens found again."""
    errors, first, last, control, same = [], [], [], [], []
    for record in records:
        pose, valid = record.pose[::SEGMENT_STEPS], record.valid[::SEGMENT_STEPS]
        args = policy.vocabulary, pose, valid, record.classes
        closed, open_loop = (jax.device_get(_encode(*args, closed_loop=flag)) for flag in (True, False))
        mask = (closed.token >= 0) & record.is_traveling[None]
        errors.append(closed.error[mask])
        whole = mask.all(axis=0)
        first.append(closed.error[:3, whole].ravel())
        last.append(closed.error[-3:, whole].ravel())
        control.append(open_loop.error[-3:, whole].ravel())
        _, ends = _decode(policy.vocabulary, pose[0], np.maximum(closed.token, 0))
        again = _encode(policy.vocabulary, ends, np.ones_like(valid), record.classes)
        same.append((np.asarray(again.token) == closed.token)[:, whole].ravel())
    joined = np.concatenate(errors)
    return {
        "count": len(joined),
        "mean": float(joined.mean()),
        "median": float(np.median(joined)),
        "p99": float(np.percentile(joined, 99)),
        "max": float(joined.max()),
        **{name: float(np.concatenate(part).mean()) for name, part in (("first3", first), ("last3", last))},
        "control_last3": float(np.concatenate(control).mean()),
        "round_trip": float(np.concatenate(same).mean()),
    }


_decode = jax.jit(decode)


def token_criteria(name: str, result: dict[str, float]) -> list[Criterion]:
    """K1."""
    print(table_line(f"tokens, {name}", result))
    limit = 0.07 if name == "synthetic" else 0.15
    rows = [
        Criterion(f"{name}: mean error of tokens, m", result["mean"], high=limit),
        Criterion(
            f"{name}: error of the control at the end / error", result["control_last3"] / result["last3"], low=10.0
        ),
        Criterion(f"{name}: tokens found again", result["round_trip"], low=1.0),
    ]
    if name == "synthetic":
        rows.append(Criterion(f"{name}: 99th percentile of the error of tokens, m", result["p99"], high=0.4))
        rows.append(Criterion(f"{name}: last 3 / first 3 tokens", result["last3"] / result["first3"], high=2.0))
    return rows


def likelihoods(policy: DecoderPolicy, records: list[SceneRecord], train: list[SceneRecord]) -> dict[str, Any]:
    """Mean negative log-likelihoods of traveling agents, and intervals of the differences without a modality."""
    model, tokens = policy.model, policy.model.config.tokens
    counted = build_tracks(policy.vocabulary, train, tokens)
    tracks = build_tracks(policy.vocabulary, records, tokens)
    is_traveling = np.asarray(tracks.is_traveling)
    table = TokenTable.from_tracks(tracks, is_traveling)
    baselines = baseline_nll(policy.vocabulary, TokenTable.from_tracks(counted), table)
    # The route of the sdc agrees with its log, so that it is not observed.
    own = track_nll(model, policy.params, tracks, without=("route",))
    result: dict[str, Any] = {name: float(values.mean()) for name, values in baselines.items()}
    result["decoder"] = float(np.nanmean(own[is_traveling]))
    recorded = own[(np.asarray(tracks.target) >= 0) & is_traveling[:, None]]
    result["with constant velocity"] = float(mixture_nll(recorded, baselines["constant velocity"]).mean())
    result["by speed"] = nll_by_speed(policy.vocabulary, table, baselines | {"decoder": recorded})
    result["untrained"] = float(np.nanmean(_untrained_nll(policy, tracks)[is_traveling]))
    has_token = is_traveling & np.isfinite(own).any(axis=1)
    for name in REMOVED:
        changed = track_nll(model, policy.params, tracks, without=("route", name)) - own
        per_agent = np.nanmean(changed[has_token], axis=1)
        result[f"without {name}"] = mean_interval(per_agent, np.asarray(tracks.scene)[has_token])
    log_probs = jax.jit(model.log_probs)(policy.params, jax.tree.map(lambda leaf: leaf[:256], tracks.inputs))
    result["coverage"] = coverage(np.asarray(log_probs), np.asarray(tracks.target)[:256], COVERAGE)
    return result


def _untrained_nll(policy: DecoderPolicy, tracks: Any) -> Float[np.ndarray, "R T"]:
    return track_nll(policy.model, policy.model.init(jax.random.key(0)), tracks)


def likelihood_criteria(name: str, result: dict[str, Any]) -> list[Criterion]:
    """K2: recorded scenes are compared with constant velocity, the strongest baseline there."""
    print(table_line(f"nats per token, {name}", {key: str(value) for key, value in result.items()}))
    others = min(result[key] for key in ("unigram", "same token", "constant velocity"))
    rows = [Criterion(f"{name}: decoder / best of unigram, same token, velocity", result["decoder"] / others, high=1.0)]
    if name == "synthetic":
        rows.append(Criterion(f"{name}: decoder / bigram", result["decoder"] / result["bigram"], high=0.8))
        rows.append(Criterion(f"{name}: without the map, lower bound, nats", result["without map"][1], low=0.1))
    return rows


def arms(policy: DecoderPolicy, quick: bool) -> dict[str, Policy]:
    """The compared policies by name."""
    own = dataclasses.replace(policy, params=jax.device_put(policy.params))
    untrained = dataclasses.replace(
        policy,
        params=policy.model.init(jax.random.key(0)),
        sampling=TokenSampling.create(1.0, policy.num_candidates),
    )
    decoders: dict[str, Policy] = {
        "decoder": own,
        "without_agents": dataclasses.replace(own, modalities=Modalities.select("route", "agents")),
        "untrained": untrained,
    }
    rules: dict[str, Policy] = {
        "stationary": Stationary(),
        "noisy_constant_velocity": NoisyConstantVelocity(),
        "idm": IDM(),
    }
    return decoders | ({} if quick else rules)


def realism_rows(options: Options, name: str, path: str, arm: str, policy: Policy) -> list[dict[str, float]]:
    """Scores of the scenes by one policy; those in the file are used again.

    Args:
      options: Inputs and outputs.
      name: Name of the data set.
      path: Its scenes.
      arm: Name of the policy.
      policy: The policy.
    """
    file, scenarios = options.out / f"realism_{name}_{arm}.jsonl", ws.load(path, pad_to_bucket=False)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = {row["index"]: row for row in map(json.loads, lines)}
    missing = [index for index in range(len(scenarios)) if index not in rows]
    results = evaluate_realism(scenarios, policy=policy, num_rollouts=options.rollouts, indices=missing)
    for index, result in zip(missing, results, strict=True):
        if not isinstance(result, RealismResult) or result.score is None:
            raise ValueError(f"{path}, scene {index}: {result}")
        score = result.score
        row = {"index": index, "meta_metric": score.meta_metric, "ade": score.ade, "min_ade": score.min_ade}
        row |= {**score.buckets, **score.simulated_rates}
        rows[index] = {key: float(value) for key, value in row.items()} | {"index": index}
        with file.open("a", encoding="utf-8") as lines_file:
            lines_file.write(json.dumps(rows[index]) + "\n")
    return [rows[index] for index in range(len(scenarios))]


def realism_criteria(name: str, rows: dict[str, list[dict[str, float]]]) -> list[Criterion]:
    """K3: paired differences of the meta-metric over scenes with their intervals, medians and wins."""
    values = {arm: {key: np.array([row[key] for row in own]) for key in SCORES} for arm, own in rows.items()}
    criteria = []
    for arm, own in values.items():
        means = {key: float(value.mean()) for key, value in own.items()}
        print(table_line(f"{name}: {arm}", means | {"median": float(np.median(own["meta_metric"]))}))
        if arm == "decoder":
            continue
        difference = values["decoder"]["meta_metric"] - own["meta_metric"]
        mean, low, high = mean_interval(difference, np.arange(len(difference)))
        wins = int((difference > 0).sum())
        print(f"  decoder - {arm}: {mean:+.3f} ({low:+.3f} .. {high:+.3f}), better in {wins} of {len(difference)}")
        if arm in ("untrained", "stationary", "noisy_constant_velocity"):
            criteria.append(Criterion(f"{name}: decoder - {arm}, lower bound", low, low=0.0))
        if arm == "idm":
            criteria.append(Criterion(f"{name}: decoder - idm, lower bound", low, low=0.0))
            kinematic = float(np.mean(values["decoder"]["kinematic"] - own["kinematic"]))
            criteria.append(Criterion(f"{name}: kinematic bucket - that of idm", kinematic, low=0.0))
    return criteria


if __name__ == "__main__":
    main(tyro.cli(Options))
