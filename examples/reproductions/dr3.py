"""DR3 (Kumar et al. 2022) on car following: co-adaptation of features, its effect on the return, and controls.

    python -m examples.reproductions.dr3 --out runs/dr3

Q-learning and CQL from 3,000 logged decisions of a noisy driver, for many more gradient steps than the data need, with
and without the regularization. Learners without bootstrapping from other actions (Monte Carlo returns, SARSA), a decay
of the parameters with an equal initial effect, and the regularization with shuffled pairs of states are controls. Runs
in the folder are used again.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from behavior_models.networks.multi_task_q import MLPEncoder, MultiTaskQModel
from behavior_models.networks.value_heads import ValueSupport
from behavior_models.offline.car_following_bed import (
    BED,
    LOGGED_STARTS,
    OBSERVATION_SIZE,
    drive,
    epsilon_idm,
    evaluate,
    reset,
)
from behavior_models.offline.dr3 import dr3
from behavior_models.offline.scaled_q_learning import Backup, ScaledQConfig, ScaledQLearning
from behavior_models.offline.transitions import Transitions
from examples.reproductions.waymax_common import Criterion, ratio_interval, table_line

# Logged episodes and their decisions: about 3,000. Returns are summed over further decisions.
NUM_STREAMS = 78
NUM_LOGGED = 40
NUM_FURTHER = 60
DISCOUNT = 0.95
EPSILON = 0.6
SUPPORT = ValueSupport(-8.0, 20.0)
MODEL = MultiTaskQModel(
    MLPEncoder(OBSERVATION_SIZE, (128,)),
    ((True,) * BED.num_actions,),
    SUPPORT,
    is_distributional=False,
    num_features=128,
    normalize=False,
)
CQL_WEIGHT = 0.3
DR3_WEIGHT = 0.003
# Gradient steps of a line of a run, and between two evaluations. The first evaluation is the early one of the criteria.
NUM_GRADIENT_STEPS = 500
EVALUATE_EVERY = 2000
# Decays of the parameters among which the control is chosen.
DECAYS = (1.0, 3.0, 10.0, 30.0, 100.0)
# Seed of the runs that choose it, which is none of the runs of the report.
CHOICE_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Arm:
    """A learner.

    Attributes:
      cql: Weight of the conservative term.
      dr3: Weight of the regularization.
      decay: Decay of the parameters per unit of the learning rate.
      backup: Value after a transition.
      shuffled: Whether the regularization compares states that do not follow each other.
    """

    cql: float = 0.0
    dr3: float = 0.0
    decay: float = 0.0
    backup: Backup = "max"
    shuffled: bool = False

    @property
    def learner(self) -> ScaledQLearning:
        """The algorithm."""
        config = ScaledQConfig(
            loss="mse",
            backup=self.backup,
            num_gradient_steps=NUM_GRADIENT_STEPS,
            discount=DISCOUNT,
            cql_weight=self.cql,
            dr3_weight=self.dr3,
            weight_decay=self.decay,
        )
        # Weights of the loss are part of the state: equal configurations share a program.
        plain = dataclasses.replace(config, cql_weight=0.0, dr3_weight=0.0, weight_decay=0.0)
        return (ShuffledPartners if self.shuffled else ScaledQLearning)(MODEL, plain)


class ShuffledPartners(ScaledQLearning):
    """The regularization of features of states that do not follow each other."""

    def co_adaptation(self, features, next_features):
        """Dot products with the next states of other transitions."""
        return dr3(features, jnp.roll(next_features, 1, axis=0))


ARMS = {
    "Q-learning": Arm(),
    "Q-learning + DR3": Arm(dr3=DR3_WEIGHT),
    "CQL": Arm(cql=CQL_WEIGHT),
    "CQL + DR3": Arm(cql=CQL_WEIGHT, dr3=DR3_WEIGHT),
    "CQL + DR3, 10 c0": Arm(cql=CQL_WEIGHT, dr3=10 * DR3_WEIGHT),
    "CQL + DR3, shuffled pairs": Arm(cql=CQL_WEIGHT, dr3=DR3_WEIGHT, shuffled=True),
    "Monte Carlo": Arm(backup="monte_carlo"),
    "SARSA": Arm(backup="in_sample"),
}
DECAY_ARM = "CQL + parameter decay"


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of the runs and the report.
      num_updates: Gradient steps of a run.
      seeds: Seeds of data and network, from `first_seed` on.
      first_seed: First seed.
      quick: Two evaluations and two seeds, to see that it runs.
    """

    out: Path
    num_updates: int = 30_000
    seeds: int = 5
    first_seed: int = 0
    quick: bool = False


@jax.jit
def log_transitions(key):
    """Logged decisions of a noisy driver, with discounted returns."""
    start_key, drive_key = jax.random.split(key)
    start = reset(start_key, NUM_STREAMS, LOGGED_STARTS)
    driven = drive(epsilon_idm(EPSILON), start, drive_key, NUM_LOGGED + 1 + NUM_FURTHER)

    def backward(following, reward):
        total = reward + DISCOUNT * following
        return total, total

    returns = jax.lax.scan(backward, jnp.zeros(NUM_STREAMS), driven.reward, reverse=True)[1]
    logged = jax.tree.map(lambda leaf: leaf[: NUM_LOGGED + 1], driven)
    return Transitions(
        observation=logged.observation,
        action=logged.action,
        reward=logged.reward,
        ended=logged.ended,
        truncated=jnp.zeros_like(logged.ended),
        active=logged.active,
        task=jnp.zeros(NUM_STREAMS, jnp.int32),
        return_to_go=returns[: NUM_LOGGED + 1],
    )


@jax.jit
def drive_greedily(params, key):
    """Mean return and share of crashes of the greedy policy."""
    returns, crashed = evaluate(lambda rows, key: jnp.argmax(MODEL.network(params)(rows)[0], axis=-1), key)
    return {"return": jnp.mean(returns), "crashed": jnp.mean(crashed)}


def train(arm: Arm, seed: int, num_updates: int) -> list[dict[str, float]]:
    """Evaluations of a run, each with the scalars of the gradient steps before it."""
    learner, data = arm.learner, log_transitions(jax.random.key(seed))
    state = learner.init(jax.random.key(seed + 1))
    weights = dict(cql=arm.cql, dr3=arm.dr3, decay=arm.decay)
    weights = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
    state = dataclasses.replace(state, weights=dataclasses.replace(state.weights, **weights))
    lines = []
    for step in range(NUM_GRADIENT_STEPS, num_updates + 1, NUM_GRADIENT_STEPS):
        state, scalars = _train_step(learner, state, data)
        if step % EVALUATE_EVERY == 0:
            driven = drive_greedily(state.params, jax.random.key(99))
            lines.append({"step": step} | {name: float(value) for name, value in (scalars | driven).items()})
    return lines


_train_step = jax.jit(ScaledQLearning.train_step, static_argnums=0)


def main(study: Study) -> None:
    """Trains all arms seed by seed, and writes report.json."""
    if study.quick:
        study = dataclasses.replace(study, num_updates=2 * EVALUATE_EVERY, seeds=2)
    study.out.mkdir(parents=True, exist_ok=True)
    arms = ARMS | {DECAY_ARM: Arm(cql=CQL_WEIGHT, decay=choose_decay(study))}
    runs = {name: [] for name in arms}
    for seed in range(study.first_seed, study.first_seed + study.seeds):
        for name, arm in arms.items():
            runs[name].append(stored_run(study, name, arm, seed))
    report(study, {name: {key: _table(lines, key) for key in lines[0][0]} for name, lines in runs.items()})


def stored_run(study: Study, name: str, arm: Arm, seed: int) -> list[dict[str, float]]:
    """The run in the folder, trained if there is none.

    Args:
      study: The study.
      name: Name of the arm.
      arm: The learner.
      seed: Seed of data and network.
    """
    file = study.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}-{study.num_updates}.json"
    if not file.exists():
        file.write_text(json.dumps(train(arm, seed, study.num_updates)) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def choose_decay(study: Study) -> float:
    """The decay whose early dot product is nearest to that of DR3, by a seed of its own."""
    early = dataclasses.replace(study, num_updates=EVALUATE_EVERY)
    goal = stored_run(early, "CQL + DR3", ARMS["CQL + DR3"], CHOICE_SEED)[0]["feature_dot"]
    distances = {}
    for decay in DECAYS:
        line = stored_run(early, f"decay {decay:g}", Arm(cql=CQL_WEIGHT, decay=decay), CHOICE_SEED)[0]
        distances[decay] = abs(np.log(max(line["feature_dot"], 1e-6) / goal))
    return min(distances, key=distances.__getitem__)


def _table(runs: list[list[dict[str, float]]], name: str) -> np.ndarray:
    """A scalar of all seeds and evaluations, [S, E]."""
    return np.array([[line[name] for line in lines] for lines in runs])


def report(study: Study, arms: dict[str, dict[str, np.ndarray]]) -> None:
    """Prints the table and the criteria, and writes report.json."""
    names = ("dot early", "dot last", "rank last", "value last", "average return", "last return", "unlearning")
    print(table_line("learner", dict(zip(names, names, strict=True))))
    rows = {name: _summary(columns) for name, columns in arms.items()}
    for name, row in rows.items():
        print(table_line(name, {key: f"{np.mean(value):.1f}" for key, value in row.items()}))
    criteria = find_criteria(rows)
    for criterion in criteria:
        print(criterion)
    facts = {
        "study": {name: str(value) for name, value in vars(study).items()},
        "arms": {name: {key: np.asarray(value).tolist() for key, value in row.items()} for name, row in rows.items()},
        "criteria": [dataclasses.asdict(each) | {"passed": each.passed} for each in criteria],
    }
    (study.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _summary(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of each seed [S]."""
    dot, returns = columns["feature_dot"], columns["return"]
    best = returns.max(axis=1)
    return {
        "dot early": dot[:, 0],
        "dot last": dot[:, -1],
        "rank last": columns["effective_rank"][:, -1],
        "value last": columns["value"][:, -1],
        "average return": returns.mean(axis=1),
        "last return": returns[:, -1],
        "unlearning": (best - returns[:, -1]) / np.maximum(np.abs(best), 1e-6),
    }


def find_criteria(rows: dict[str, dict[str, np.ndarray]]) -> list[Criterion]:
    """The statements of the paper at this scale, and those that controls have to violate."""

    def growth(name: str) -> float:
        return float(np.mean(rows[name]["dot last"]) / np.mean(rows[name]["dot early"]))

    def last(name: str) -> np.ndarray:
        return rows[name]["last return"]

    plain, regular, seeds = rows["CQL"], rows["CQL + DR3"], np.arange(len(last("CQL")))
    ratio, low, _ = ratio_interval(regular["last return"], plain["last return"], seeds)
    average = float(np.mean(regular["average return"]) / np.mean(plain["average return"]))
    gain = float(np.mean(last("CQL + DR3") - last("CQL")))
    shuffled = float(np.mean(last("CQL + DR3, shuffled pairs") - last("CQL"))) / gain if gain > 0 else np.nan
    values = [float(np.mean(rows[name]["value last"])) for name in ("Q-learning", "Q-learning + DR3")]
    decay_ratio = float(np.mean(last(DECAY_ARM)) / np.mean(last("CQL")))
    decay_value = float(np.mean(rows[DECAY_ARM]["value last"]) / np.mean(plain["value last"]))
    satisfied = (decay_ratio >= 1.3) + (0.75 <= decay_value <= 1.25)
    unlearning = float(np.mean(plain["unlearning"] - regular["unlearning"]))
    return [
        *(Criterion(f"D1 growth of the dot product, {name}", growth(name), low=4.0) for name in ("Q-learning", "CQL")),
        *(
            Criterion(f"D1 growth of the dot product, {name} + DR3", growth(f"{name} + DR3"), high=2.0)
            for name in ("Q-learning", "CQL")
        ),
        Criterion("D1 ratio of the values with and without DR3", values[1] / values[0], 0.75, 1.25),
        Criterion("D2 ratio of the last returns, CQL + DR3 to CQL", ratio, low=1.3),
        Criterion("D2 lower 95 % bound of this ratio", low, low=1.0),
        Criterion("D2 ratio of the average returns", average, low=1.1),
        Criterion("D3 unlearning of CQL minus that of CQL + DR3", unlearning, low=0.1),
        Criterion("D4 growth of the dot product, Monte Carlo", growth("Monte Carlo"), high=1.5),
        Criterion("D4 growth of the dot product, SARSA", growth("SARSA"), high=1.5),
        Criterion("control: conditions on return and values that parameter decay satisfies", satisfied, high=1.0),
        Criterion("control: share of the gain that shuffled pairs keep", shuffled, high=0.5),
    ]


if __name__ == "__main__":
    main(tyro.cli(Study))
