"""A resumable realism evaluation: a directory in which rows and rollouts are collected, scene by scene."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.sim_agents_submission import (
    CHALLENGE_ROLLOUTS,
    RolloutFile,
    encode_rollouts,
    read_npz,
    read_rollouts,
    rollouts_path,
    unpack_submission,
    write_submission,
)
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.env import Policy
from waymax_sim.evaluation.realism.evaluate import RealismResult, evaluate_realism, to_rollout_file
from waymax_sim.evaluation.realism.report import realism_conditions, realism_table, score_row, summarize
from waymax_sim.metrics.realism import CONFIGS, simulated_mask
from waymax_sim.results_dir import Json, ResultsDir, write_json

__all__ = ["CHALLENGE_ROLLOUTS", "RealismRun", "open_run", "realism_table"]

# Largest number of scenes in a shard of a submission; a scene takes up to 5 MB.
MAX_SCENES_PER_SHARD = 200
# Columns that identify a row.
SCENE_ROW_KEY = ("file", "record")


@dataclasses.dataclass(frozen=True)
class RealismRun:
    """A realism evaluation whose directory is open.

    Attributes:
      out: Directory of the results.
      scenarios: The scenes.
      conditions: The conditions that the scores depend on.
      policy: The policy of all agents, or None with rollouts from a file.
      file: Submission or arrays, or None with a policy.
      rows: Rows of the scored scenes; grows.
      remaining: Indices of the scenes that are not scored yet.
      failures: Errors of scenes that could not be scored; grows.
    """

    out: Path
    scenarios: Scenarios
    conditions: Json
    policy: Policy | None
    file: Path | None
    rows: list[Json]
    remaining: list[int]
    failures: list[DataError]

    def results(self) -> Iterator[RealismResult | DataError]:
        """Scores the remaining scenes, and writes their rows and on demand their rollouts.

        Raises:
          DataError: The file with rollouts cannot be used.
          BlockingIOError: Another process writes to the directory.
        """
        with _directory(self.out).lock():
            for result in self._evaluate():
                yield self._write(result)

    def finish(self) -> Json:
        """Writes the summary of all rows."""
        summary = summarize(self.rows, self.failures, self.conditions)
        write_json(self.out / "summary.json", summary)
        return summary

    def write_submission(self, path: Path, *, account: str, method: str) -> None:
        """Packs the rollouts of all scored scenes.

        Args:
          path: File of the submission, such as submission.tar.gz.
          account: E-mail of the account that submits.
          method: Name of the method.
        """
        files = [rollouts_path(self.out / "rollouts", row["scenario_id"]) for row in self.rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_submission(path, files, math.ceil(len(files) / MAX_SCENES_PER_SHARD), account, method)

    def _evaluate(self) -> Iterator[RealismResult | DataError]:
        conditions = self.conditions
        return evaluate_realism(
            self.scenarios,
            CONFIGS[conditions["config"]],
            policy=self.policy,
            read_rollouts=None if self.file is None else _rollout_reader(self.file, self.out / "rollouts"),
            num_rollouts=conditions["rollouts"] or 0,
            seed=conditions["seed"],
            parity=conditions["parity"],
            indices=self.remaining,
            allow_unscored=conditions["keeps_rollouts"],
        )

    def _write(self, result: RealismResult | DataError) -> RealismResult | DataError:
        """Writes a result, or records a failure."""
        if isinstance(result, DataError):
            self.failures.append(result)
            return result
        if self.conditions["keeps_rollouts"]:
            try:
                self._write_rollouts(result)
            except DataError as error:
                self.failures.append(error.with_location(file=result.file, record=result.record))
                return self.failures[-1]
        row = score_row(result, self.conditions)
        _directory(self.out).append([row])
        self.rows.append(row)
        return result

    def _write_rollouts(self, result: RealismResult) -> None:
        scenario, file = result.scenario, to_rollout_file(result.rollouts, result.scenario)
        file.check(
            np.asarray(scenario.agents.id)[np.asarray(simulated_mask(scenario))], num_rollouts=CHALLENGE_ROLLOUTS
        )
        rollouts_path(self.out / "rollouts", file.scenario_id).write_bytes(encode_rollouts(file))


def open_run(
    out: Path,
    scenarios: Scenarios,
    *,
    path: str,
    policy: tuple[str, Policy] | None,
    file: Path | None,
    num_rollouts: int,
    config: str,
    seed: int,
    parity: bool,
    keeps_rollouts: bool,
) -> RealismRun:
    """Creates the directory of a run, or resumes an existing one.

    Args:
      out: Directory of the results.
      scenarios: The scenes.
      path: Source of the scenes, recorded in the conditions.
      policy: Name of the policy of all agents, and the policy.
      file: Submission or arrays, without a policy.
      num_rollouts: Rollouts of the policy in each scene.
      config: Name of the configuration.
      seed: Seed of all random draws.
      parity: Reproduce the official code, defects included.
      keeps_rollouts: Write all rollouts, for a submission.

    Raises:
      ValueError: The directory holds results of other conditions.
    """
    conditions = realism_conditions(
        path=path,
        source=policy[0] if policy else str(file),
        config=config,
        parity=parity,
        privileged=policy[1].privileged if policy else None,
        num_rollouts=num_rollouts if policy else None,
        seed=seed,
    )
    conditions |= {"keeps_rollouts": keeps_rollouts}
    directory = _directory(out)
    directory.open(conditions)
    done = directory.rows()
    remaining = [index for index in range(len(scenarios)) if scenarios.source(index) not in done]
    if keeps_rollouts or file is not None:
        (out / "rollouts").mkdir(exist_ok=True)
    rows, failures = list(done.values()), list(scenarios.problems)
    return RealismRun(out, scenarios, conditions, policy and policy[1], file, rows, remaining, failures)


def _directory(out: Path) -> ResultsDir:
    return ResultsDir(out, SCENE_ROW_KEY)


def _rollout_reader(file: Path, folder: Path) -> Callable[[str], RolloutFile]:
    """A function that reads the rollouts of a scenario from a file."""
    if file.suffix == ".npz":
        arrays = read_npz(file)
        return lambda scenario_id: arrays
    unpack_submission(file, folder)
    return lambda scenario_id: read_rollouts(folder, scenario_id)
