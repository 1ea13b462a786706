"""An evaluation in a folder: killed at any moment, it goes on where it was; shares of it add up to the whole.

Each process appends to a file of its own in `parts`. When nothing is left to do, the last one sorts all parts into
`rows.jsonl` and writes `summary.json`. Neither depends on how the work was shared out or how often it was interrupted.
"""

import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from waymax_sim.datasets.errors import DataError
from waymax_sim.evaluation import report
from waymax_sim.evaluation.evaluate import Evaluation, Failure, Plan, Run, SceneResult
from waymax_sim.evaluation.report import Json
from waymax_sim.evaluation.summary import result_of

ABOUT = ("index", "file", "record", "scenario_id", "digest", "policy", "traffic", "seed")


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder that results are collected in.

    Attributes:
      out: The folder.
      evaluation: What is evaluated.
      path: Where the scenes come from.
      shard: (i, n): this process does the scenes i, i + n, i + 2 n, ...
    """

    out: Path
    evaluation: Evaluation
    path: str
    shard: tuple[int, int] = (0, 1)

    @property
    def num_runs(self) -> int:
        """Rows that this process is to see to, those that are there already included."""
        return len(self._share) * len(self.evaluation.plan.runs)

    def open(self) -> None:
        """Makes the folder, or opens one to go on with.

        Raises:
          ValueError: It holds results of other conditions.
        """
        report.agree(self.out, conditions_of(self.evaluation.plan, self.path))
        (self.out / "parts").mkdir(exist_ok=True)

    def results(self) -> Iterator[int]:
        """Evaluates what is left of this process's share; how many rows are there, as they are written.

        What failed before is tried again.
        """
        own = self.out / "parts" / "rows-{:05d}-of-{:05d}.jsonl".format(*self.shard)
        report.mend(own)
        done = {_key(row) for row in self._rows() if "error" not in row}
        runs, share = self.evaluation.plan.runs, self._share
        left = [index for index in share if any((index, *run) not in done for run in runs)]
        yield sum((index, *run) in done for index in share for run in runs)
        for found in self.evaluation.results(left, lambda index, run: (index, *run) in done):
            report.append_rows(own, [_row(item) for item in found])
            yield sum(len(runs) if isinstance(item, Failure) and item.run is None else 1 for item in found)

    def finish(self) -> Json | None:
        """Writes the tables if no process has anything left to do, and returns the summary."""
        plan, latest = self.evaluation.plan, {_key(row): row for row in self._rows()}
        done = {key: row for key, row in latest.items() if "error" not in row}
        failed = {key: row for key, row in latest.items() if "error" in row}
        # A scene that failed has one row for all its runs, unless it has been read since.
        failed = {key: row for key, row in failed.items() if key[1] is not None or not _all_done(key[0], plan, done)}
        for index in range(len(self.evaluation.scenarios)):
            if (index, None, None, None) not in failed and not _all_done(index, plan, done | failed):
                return None
        order = {run: place for place, run in enumerate(plan.runs)}
        rows = [done[key] for key in sorted(done, key=lambda key: (key[0], order[key[1:]]))]
        report.write_rows(self.out / "rows.jsonl", rows)
        if importlib.util.find_spec("pyarrow"):
            _write_parquet(self.out / "rows.parquet", rows, plan)
        failures = [_failure(error) for error in self.evaluation.scenarios.problems]
        failures += [failed[key] for key in sorted(failed, key=lambda key: (key[0], order.get(key[1:], -1)))]
        summary = {
            "num_scenes": len({row["index"] for row in rows}),
            "num_failed": len({(row["file"], row["record"]) for row in failures}),
            "failures": failures,
            "results": self._results(rows),
            "conditions": conditions_of(plan, self.path) | {"data_hash": _hash(rows)},
        }
        report.write_json(self.out / "summary.json", summary)
        return summary

    @property
    def _share(self) -> range:
        index, number = self.shard
        return range(index, len(self.evaluation.scenarios), number)

    def _rows(self) -> list[Json]:
        return [row for part in sorted((self.out / "parts").glob("rows-*.jsonl")) for row in report.read_rows(part)]

    def _results(self, rows: list[Json]) -> list[Json]:
        plan, found = self.evaluation.plan, []
        for policy, driver in plan.policies.items():
            for traffic in plan.traffic:
                own = [row for row in rows if (row["policy"], row["traffic"]) == (policy, traffic)]
                about = {"policy": policy, "privileged": driver.privileged, "agents": plan.agents, "traffic": traffic}
                found.append(about | result_of(own, plan.columns))
        return found


def error_of(failure: Json) -> DataError:
    """The error that a summary lists."""
    place = {name: failure[name] for name in ("file", "record", "field", "remedy")}
    return DataError(failure["error"], **place)


def conditions_of(plan: Plan, path: str) -> Json:
    """All that the numbers of an evaluation depend on."""
    env = plan.env(next(iter(plan.traffic)))

    def described(drivers: Mapping) -> Json:
        return {
            name: driver and {"privileged": driver.privileged, "dynamics": repr(driver.dynamics or env.dynamics)}
            for name, driver in drivers.items()
        }

    return {
        "path": path,
        "policies": described(plan.policies),
        "traffic": described(plan.traffic),
        "agents": plan.agents,
        "metrics": {name: column._asdict() for name, column in plan.columns.items()},
        "steps": plan.max_steps,
        "seeds": list(plan.seeds),
        "env": {"spawn": {name: plan.env(name).config.spawn for name in plan.traffic}}
        | {name: getattr(env.config, name) for name in ("despawn", "height_source", "dt")},
        **report.circumstances(),
    }


def _key(row: Json) -> tuple:
    return row["index"], row["policy"], row["traffic"], row["seed"]


def _all_done(index: int, plan: Plan, done: Mapping[tuple, Json]) -> bool:
    return all((index, *run) in done for run in plan.runs)


def _row(item: SceneResult | Failure) -> Json:
    if isinstance(item, Failure):
        return {"index": item.index} | _failure(item.error, item.run)
    about = (item.index, item.file, item.record, item.scenario_id, item.digest, *item.run)
    return dict(zip(ABOUT, about, strict=True)) | item.values


def _failure(error: DataError, run: Run | None = None) -> Json:
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


def _hash(rows: list[Json]) -> str:
    """Hash of all scenes that were used."""
    scenes = {row["index"]: row["digest"] for row in rows}
    return hashlib.sha256("".join(scenes[index] for index in sorted(scenes)).encode()).hexdigest()


def _write_parquet(path: Path, rows: list[Json], plan: Plan) -> None:
    # Only here: it is optional.
    import pyarrow as pa
    import pyarrow.parquet

    integers = ("index", "record", "seed")
    schema = [(name, pa.int64() if name in integers else pa.string()) for name in ABOUT]
    schema += [(name, pa.float64()) for name in plan.columns]
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=pa.schema(schema)), half)
    os.replace(half, path)
