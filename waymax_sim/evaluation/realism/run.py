"""One run of `waymax-sim realism`: a folder that rows and rollouts are collected in, scene by scene."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.sim_agents_submission import (
    NUM_ROLLOUTS,
    RolloutFile,
    encode_rollouts,
    file_of,
    read_npz,
    read_rollouts,
    unpack_submission,
    write_submission,
)
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.env import Policy
from waymax_sim.evaluation import report
from waymax_sim.evaluation.realism.evaluate import RealismResult, evaluate_realism, to_file
from waymax_sim.evaluation.realism.report import conditions_of, realism_table, row_of, summarize
from waymax_sim.metrics.realism import CONFIGS, simulated

__all__ = ["NUM_ROLLOUTS", "Run", "open_run", "realism_table"]

# Scenes in one shard of a submission at most; each takes up to 5 MB.
SCENES_PER_SHARD = 200


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has been opened.

    Attributes:
      out: Folder of the results.
      scenarios: The scenes.
      conditions: All that the scores depend on.
      policy: Who drives, or None where rollouts come from a file.
      file: Submission or arrays, or None where a policy drives.
      rows: Rows of the scenes that are done; grows.
      left: Indices of the scenes that are to be done.
      failures: What could not be used; grows.
    """

    out: Path
    scenarios: Scenarios
    conditions: report.Json
    policy: Policy | None
    file: Path | None
    rows: list[report.Json]
    left: list[int]
    failures: list[DataError]

    def results(self) -> Iterator[RealismResult | DataError]:
        """Scores the scenes that are left and keeps their rows, and their rollouts if those are wanted.

        Raises:
          DataError: The file with rollouts cannot be used.
        """
        wanted = self.conditions
        found = evaluate_realism(
            self.scenarios,
            CONFIGS[wanted["config"]],
            policy=self.policy,
            find=None if self.file is None else _finder(self.file, self.out / "rollouts"),
            num_rollouts=wanted["rollouts"] or 0,
            seed=wanted["seed"],
            parity=wanted["parity"],
            indices=self.left,
        )
        for result in found:
            if isinstance(result, DataError):
                self.failures.append(result)
                yield result
                continue
            if wanted["keeps_rollouts"]:
                try:
                    self._keep(result)
                except DataError as error:
                    self.failures.append(error.at(file=result.file, record=result.record))
                    yield self.failures[-1]
                    continue
            row = row_of(result, wanted)
            report.append_rows(self.out / "rows.jsonl", [row])
            self.rows.append(row)
            yield result

    def finish(self) -> report.Json:
        """Writes the summary of all rows."""
        summary = summarize(self.rows, self.failures, self.conditions)
        report.write_json(self.out / "summary.json", summary)
        return summary

    def write_submission(self, path: Path, *, account: str, method: str) -> None:
        """Packs the rollouts of all scenes that are done."""
        files = [file_of(self.out / "rollouts", row["scenario_id"]) for row in self.rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_submission(path, files, math.ceil(len(files) / SCENES_PER_SHARD), account, method)

    def _keep(self, result: RealismResult) -> None:
        scenario, file = result.scenario, to_file(result.rollouts, result.scenario)
        file.check(np.asarray(scenario.agents.id)[np.asarray(simulated(scenario))], num_rollouts=NUM_ROLLOUTS)
        file_of(self.out / "rollouts", file.scenario_id).write_bytes(encode_rollouts(file))


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
) -> Run:
    """Makes the folder, or opens one to go on with.

    Args:
      out: Folder of the results.
      scenarios: The scenes.
      path: Where they come from.
      policy: Name of the policy that drives all agents, and the policy.
      file: Submission or arrays, where there is no policy.
      num_rollouts: How often the policy is rolled out in each scene.
      config: Name of the configuration.
      seed: Seed of all random draws.
      parity: Whether the official code is reproduced, defects included.
      keeps_rollouts: Keep all rollouts, for a submission.

    Raises:
      ValueError: The folder holds results of other conditions.
    """
    conditions = conditions_of(
        path=path,
        source=policy[0] if policy else str(file),
        config=config,
        parity=parity,
        privileged=policy is not None and policy[1].privileged,
        num_rollouts=num_rollouts if policy else None,
        seed=seed,
    )
    conditions |= {"keeps_rollouts": keeps_rollouts}
    rows = report.open_results(out, conditions)
    done = report.done(rows)
    left = [index for index in range(len(scenarios)) if scenarios.source(index) not in done]
    if keeps_rollouts or file is not None:
        (out / "rollouts").mkdir(exist_ok=True)
    return Run(out, scenarios, conditions, policy and policy[1], file, rows, left, list(scenarios.problems))


def _finder(file: Path, folder: Path) -> Callable[[str], RolloutFile]:
    """Looks up the rollouts of scenarios in a file."""
    if file.suffix == ".npz":
        arrays = read_npz(file)
        return lambda scenario_id: arrays
    unpack_submission(file, folder)
    return lambda scenario_id: read_rollouts(folder, scenario_id)
