"""A resumable evaluation in a directory, by one or several processes.

Each process appends to a file of its own in `parts`. When all rows are complete, the last process sorts them into
`rows.jsonl` and writes `summary.json`. Neither depends on the number of processes or on interruptions.
"""

import dataclasses
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from waymax_sim.datasets.errors import DataError
from waymax_sim.env.policy import observes_goals
from waymax_sim.evaluation.difficulty import FEATURES
from waymax_sim.evaluation.environment import environment_info
from waymax_sim.evaluation.evaluate import Evaluation, EvaluationConfig, Failure, RunKey, SceneResult
from waymax_sim.evaluation.resume import remove_stale_rows
from waymax_sim.evaluation.slices import scene_slices, summarize_slices
from waymax_sim.evaluation.summary import summarize_rows
from waymax_sim.results_dir import ROWS, Json, ResultsDir, replace_file, write_json, write_rows
from waymax_sim.text import printable

# Columns of a row before its metrics.
SCENE_COLUMNS = ("index", "file", "record", "scenario_id", "digest", "policy", "traffic", "seed")
# The run of a scene that cannot be read, for all runs.
ALL_RUNS = (None, None, None)
# Columns that identify a row.
RUN_ROW_KEY = ("file", "record", "policy", "traffic", "seed")


@dataclasses.dataclass(frozen=True)
class EvaluationRun:
    """An evaluation whose results are collected in a directory.

    Attributes:
      out: The directory.
      evaluation: The scenes and the evaluated configuration.
      path: Source of the scenes, recorded in the conditions.
      shard: (i, n): this process evaluates the scenes i, i + n, i + 2 n, ...
    """

    out: Path
    evaluation: Evaluation
    path: str
    shard: tuple[int, int] = (0, 1)

    @property
    def num_runs(self) -> int:
        """Number of rows of this process, complete ones included."""
        return len(self._indices) * len(self.evaluation.config.runs)

    def open(self) -> None:
        """Creates the directory, or resumes an existing one, without the rows of scenes that have changed.

        Raises:
          BlockingIOError: Scenes have changed, and another process is evaluating them.
          ValueError: It holds results of other conditions.
        """
        self._directory.open(self._conditions)
        remove_stale_rows(self._directory, self.evaluation.scenarios, self.evaluation.digest)

    def results(self) -> Iterator[int]:
        """Evaluates the missing rows of this process; yields the number of further complete rows, complete ones first.

        Scenes that failed before are evaluated again.

        Raises:
          BlockingIOError: Another process evaluates the same shard.
        """
        with self._directory.lock():
            done = {key for key, row in self._directory.rows().items() if "error" not in row}
            runs, indices = self.evaluation.config.runs, self._indices
            missing = [index for index in indices if not self._is_done(index, done)]
            yield sum(self._key(index, run) in done for index in indices for run in runs)
            for results in self.evaluation.results(missing, lambda index, run: self._key(index, run) in done):
                self._directory.append([_row(result) for result in results])
                yield sum(len(runs) if isinstance(item, Failure) and item.run is None else 1 for item in results)

    def finish(self) -> Json | None:
        """Writes the tables and returns the summary, if the rows of all processes are complete."""
        config, scenarios = self.evaluation.config, self.evaluation.scenarios
        index_by_source = {scenarios.source(index): index for index in range(len(scenarios))}
        # Files may have been added or reordered since a row was written.
        latest: dict[tuple, Json] = {
            key: row | {"index": index_by_source[key[:2]]}
            for key, row in self._directory.rows().items()
            if key[:2] in index_by_source
        }
        done = {key: row for key, row in latest.items() if "error" not in row}
        failed = {key: row for key, row in latest.items() if "error" in row}
        # A scene that cannot be read has one row for all its runs, which is obsolete if it has been evaluated since.
        failed = {
            key: row for key, row in failed.items() if key[2] is not None or not self._is_done(row["index"], done)
        }
        for index in index_by_source.values():
            if self._key(index, ALL_RUNS) not in failed and not self._is_done(index, done | failed):
                return None
        order = {run: position for position, run in enumerate(config.runs)}
        rows = sorted(done.values(), key=lambda row: (row["index"], order[row["policy"], row["traffic"], row["seed"]]))
        write_rows(self.out / ROWS, rows)
        if importlib.util.find_spec("pyarrow"):
            _write_parquet(self.out / "rows.parquet", rows, config)
        failures = [_failure(error) for error in self.evaluation.scenarios.problems]
        failures += sorted(
            failed.values(),
            key=lambda row: (row["index"], order.get((row["policy"], row["traffic"], row["seed"]), -1)),
        )
        summary = {
            "num_scenes": len({row["index"] for row in rows}),
            "num_failed": len({(row["file"], row["record"]) for row in failures}),
            "failures": failures,
            "notes": _count_notes(rows),
            "results": self._summarize(rows),
            "conditions": self._conditions | {"data_hash": _data_hash(rows)},
        }
        write_json(self.out / "summary.json", summary)
        return summary

    @property
    def _conditions(self) -> Json:
        time_step = self.evaluation.scenarios.time_step
        return run_conditions(self.evaluation.config, self.path) | {"time_step": time_step}

    @property
    def _directory(self) -> ResultsDir:
        return ResultsDir(self.out, RUN_ROW_KEY, self.shard)

    @property
    def _indices(self) -> range:
        """Indices of the scenes of this process."""
        index, num_shards = self.shard
        return range(index, len(self.evaluation.scenarios), num_shards)

    def _key(self, index: int, run: tuple) -> tuple:
        """Key of the row of a scene and a run."""
        return (*self.evaluation.scenarios.source(index), *run)

    def _is_done(self, index: int, done: Container[tuple]) -> bool:
        """Whether all runs of a scene are among keys of rows."""
        return all(self._key(index, run) in done for run in self.evaluation.config.runs)

    def _summarize(self, rows: list[Json]) -> list[Json]:
        config, results, slices = self.evaluation.config, [], scene_slices(rows)
        for name, policy in config.policies.items():
            for traffic in config.traffic:
                own = [row for row in rows if (row["policy"], row["traffic"]) == (name, traffic)]
                about = {"policy": name, "privileged": policy.privileged, "observes_goals": observes_goals(policy)}
                header = {**about, "agents": config.agents, "traffic": traffic}
                by_difficulty = {"slices": summarize_slices(own, slices, config.columns)}
                results.append(header | summarize_rows(own, config.columns) | by_difficulty)
        return results


def failure_error(failure: Json) -> DataError:
    """The error of a failure in a summary."""
    details = {name: failure[name] for name in ("file", "record", "field", "remedy")}
    return DataError(failure["error"], **details)


def run_conditions(config: EvaluationConfig, path: str) -> Json:
    """The conditions that the numbers of an evaluation depend on."""
    env = config.env(next(iter(config.traffic)))

    def describe(policies: Mapping) -> Json:
        return {
            name: policy
            and {
                "privileged": policy.privileged,
                "observes_goals": observes_goals(policy),
                "dynamics": repr(policy.dynamics or env.dynamics),
            }
            for name, policy in policies.items()
        }

    return {
        "path": path,
        "policies": describe(config.policies),
        "traffic": describe(config.traffic),
        "agents": config.agents,
        "metrics": {name: column._asdict() for name, column in config.columns.items()},
        "steps": config.max_steps,
        "seeds": list(config.seeds),
        "env": {"spawn": {name: config.env(name).config.spawn for name in config.traffic}}
        | {name: getattr(env.config, name) for name in ("despawn", "height_source", "goals")},
        **environment_info(),
    }


def _row(item: SceneResult | Failure) -> Json:
    if isinstance(item, Failure):
        return {"index": item.index} | _failure(item.error, item.run)
    values = (item.index, item.file, item.record, item.scenario_id, item.digest, *item.run)
    notes = {"notes": list(item.notes)} if item.notes else {}
    return dict(zip(SCENE_COLUMNS, values, strict=True)) | item.values | notes | {"difficulty": dict(item.difficulty)}


def _failure(error: DataError, run: RunKey | None = None) -> Json:
    policy, traffic, seed = run or (None, None, None)
    return {
        "file": error.file,
        "record": error.record,
        "policy": policy,
        "traffic": traffic,
        "seed": seed,
        "field": error.field,
        "error": error.problem,
        "remedy": error.remedy,
    }


def _count_notes(rows: list[Json]) -> dict[str, int]:
    """Number of scenes with each note."""
    scenes = {(note, row["index"]) for row in rows for note in row.get("notes", ())}
    return dict(sorted(Counter(note for note, _ in scenes).items()))


def _data_hash(rows: list[Json]) -> str:
    """Hash of the content of all evaluated scenes."""
    scenes = {row["index"]: row["digest"] for row in rows}
    return hashlib.sha256("".join(scenes[index] for index in sorted(scenes)).encode()).hexdigest()


def _write_parquet(path: Path, rows: list[Json], config: EvaluationConfig) -> None:
    import pyarrow as pa  # optional
    import pyarrow.parquet

    integers = ("index", "record", "seed")
    schema = [(name, pa.int64() if name in integers else pa.string()) for name in SCENE_COLUMNS]
    schema += [(name, pa.float64()) for name in config.columns]
    schema += [("difficulty", pa.struct([(name, pa.float64()) for name in FEATURES]))]
    # Arrow strings are UTF-8, which names of files need not be.
    texts = [
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
    with replace_file(path) as partial:
        pyarrow.parquet.write_table(pa.Table.from_pylist(texts, schema=pa.schema(schema)), partial)
