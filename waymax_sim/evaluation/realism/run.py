"""A resumable realism evaluation: a directory in which rows and rollouts are collected, scene by scene."""

import dataclasses
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

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
from waymax_sim.datasets.regular_file import open_regular
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.env import Policy
from waymax_sim.env.policy import observes_goals
from waymax_sim.evaluation.evaluate import scenario_digest
from waymax_sim.evaluation.realism.evaluate import RealismResult, evaluate_realism, to_rollout_file
from waymax_sim.evaluation.realism.report import realism_conditions, realism_table, score_row, summarize
from waymax_sim.evaluation.resume import remove_stale_rows
from waymax_sim.metrics.realism import CONFIGS, simulated_mask
from waymax_sim.results_dir import Json, ResultsDir, replace_file, write_json

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
        directory = _directory(self.out)
        with directory.lock():
            # Another process may have scored scenes since the directory was opened.
            done = {key: row for key, row in directory.rows().items() if self._is_complete(row)}
            self.rows[:] = done.values()
            self.remaining[:] = [i for i in range(len(self.scenarios)) if self.scenarios.source(i) not in done]
            for result in self._evaluate():
                yield self._write(result)

    def finish(self) -> Json:
        """Writes the summary of all rows, which are in the order of the scenes."""
        order = {self.scenarios.source(index): index for index in range(len(self.scenarios))}
        self.rows.sort(key=lambda row: order[row["file"], row["record"]])
        summary = summarize(self.rows, self.failures, self.conditions)
        write_json(self.out / "summary.json", summary)
        return summary

    def write_submission(self, path: Path, *, account: str, method: str) -> None:
        """Packs the rollouts of all scored scenes.

        Args:
          path: File of the submission, such as submission.tar.gz.
          account: E-mail of the account that submits.
          method: Name of the method.

        Raises:
          DataError: Two scenes have the same id.
        """
        repeated = [name for name, count in Counter(row["scenario_id"] for row in self.rows).items() if count > 1]
        if repeated:
            problem = f"{len(repeated)} scenes have the id of another scene, such as {repeated[0]!r}"
            raise DataError(problem, file=self.conditions["path"], field="scenario_id", remedy="leave out repetitions")
        files = [rollouts_path(self.out / "rollouts", row["scenario_id"]) for row in self.rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_submission(path, files, math.ceil(len(files) / MAX_SCENES_PER_SHARD), account, method)

    def _evaluate(self) -> Iterator[RealismResult | DataError]:
        conditions = self.conditions
        return evaluate_realism(
            self.scenarios,
            CONFIGS[conditions["config"]],
            policy=self.policy,
            read_rollouts=None if self.file is None else self._rollout_reader(self.file),
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
        with replace_file(rollouts_path(self.out / "rollouts", file.scenario_id)) as partial:
            partial.write_bytes(encode_rollouts(file))

    def _is_complete(self, row: Json) -> bool:
        """Whether the rollouts of a row are there, if a submission needs them."""
        path = rollouts_path(self.out / "rollouts", row["scenario_id"])
        return not self.conditions["keeps_rollouts"] or path.is_file()

    def _rollout_reader(self, file: Path) -> Callable[[str], RolloutFile]:
        """A function that reads the rollouts of a scenario from a file."""
        if file.suffix.lower() == ".npz":
            arrays = read_npz(file)
            return lambda scenario_id: arrays
        folder = self.out / "rollouts"
        unpack_submission(file, folder, None if self.conditions["any_number_of_rollouts"] else CHALLENGE_ROLLOUTS)
        return lambda scenario_id: read_rollouts(folder, scenario_id)


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
    any_number_of_rollouts: bool = False,
) -> RealismRun:
    """Creates the directory of a run, or resumes an existing one, without the rows of scenes that have changed.

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
      any_number_of_rollouts: Accept submissions with other numbers of rollouts than the challenge does.

    Raises:
      BlockingIOError: Scenes have changed, and another process is scoring them.
      DataError: The file with rollouts cannot be read.
      ValueError: The directory holds results of other conditions.
    """
    conditions = realism_conditions(
        path=path,
        source=policy[0] if policy else str(file),
        source_hash=None if file is None else _hash(file),
        config=config,
        parity=parity,
        privileged=policy[1].privileged if policy else None,
        observes_goals=policy is not None and observes_goals(policy[1]),
        num_rollouts=num_rollouts if policy else None,
        seed=seed,
    )
    conditions |= {
        "time_step": scenarios.time_step,
        "keeps_rollouts": keeps_rollouts,
        "any_number_of_rollouts": any_number_of_rollouts,
    }
    directory = _directory(out)
    directory.open(conditions)
    remove_stale_rows(
        directory,
        scenarios,
        lambda index: scenario_digest(pad_to_class(to_scenario(scenarios.read(index), pad_to_bucket=False))),
    )
    done = directory.rows()
    remaining = [index for index in range(len(scenarios)) if scenarios.source(index) not in done]
    if keeps_rollouts or file is not None:
        (out / "rollouts").mkdir(exist_ok=True)
    rows, failures = list(done.values()), list(scenarios.problems)
    return RealismRun(out, scenarios, conditions, policy and policy[1], file, rows, remaining, failures)


def _hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def _directory(out: Path) -> ResultsDir:
    return ResultsDir(out, SCENE_ROW_KEY)
