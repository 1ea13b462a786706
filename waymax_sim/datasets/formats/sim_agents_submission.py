"""Reader and writer of submissions to the Waymo Open Sim Agents Challenge, and reader of rollouts as plain arrays.

A submission is a `SimAgentsChallengeSubmission` message, or a tar.gz of shards that are such messages. Field numbers
are those of sim_agents_submission.proto; no generated classes are needed.
"""

import dataclasses
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.scenario import ID_BYTES

CHALLENGE_ROLLOUTS = 32  # rollouts per scenario
CHALLENGE_STEPS = 80  # steps after the current one
# Field numbers of SimAgentsChallengeSubmission.
SCENARIO_ROLLOUTS_FIELD = 1
SUBMISSION_TYPE_FIELD = 2
ACCOUNT_FIELD = 3
METHOD_FIELD = 4
# Field numbers of ScenarioRollouts.
SCENARIO_ID_FIELD = 1
JOINT_SCENES_FIELD = 2
# Field number of JointScene.
TRAJECTORIES_FIELD = 1
# Field numbers of SimulatedTrajectory.
TRAJECTORY_FIELDS = {"x": 2, "y": 3, "z": 4, "heading": 5}
OBJECT_ID_FIELD = 6
SIM_AGENTS_SUBMISSION = 1  # value of the submission type
SHARD_NAME = "submission.binproto"
MAX_MESSAGE_BYTES = 2**31  # limit of protobuf
NPZ_REMEDY = "give an .npz with object_id, x, y, z and heading"
SUBMISSION_REMEDY = "give a SimAgentsChallengeSubmission (.binproto) or a .tar.gz of its shards"


@dataclasses.dataclass(frozen=True)
class RolloutFile:
    """K rollouts of A agents over F future steps of one scenario.

    Attributes:
      scenario_id: Id of the source; "" if unknown.
      object_id: Track ids.
      xyz: Box centers, m, world frame.
      heading: rad, wrapped or not.
    """

    scenario_id: str
    object_id: Int[np.ndarray, " A"]
    xyz: Float[np.ndarray, "K A F 3"]
    heading: Float[np.ndarray, "K A F"]

    def check(
        self, expected: Int[np.ndarray, " n"], num_steps: int = CHALLENGE_STEPS, num_rollouts: int | None = None
    ) -> None:
        """Checks the rules of the challenge.

        Args:
          expected: Ids of the agents that are valid at the current step.
          num_steps: Expected number of steps after the current one.
          num_rollouts: Expected number of rollouts; None for any number.

        Raises:
          DataError: Ids, counts or lengths differ from the expected ones, or a number is not finite.
        """
        problem = self._problem(expected, num_steps, num_rollouts)
        if problem is not None:
            raise DataError(f"scenario {self.scenario_id!r}: {problem[1]}", field=problem[0])

    def _problem(self, expected, num_steps, num_rollouts) -> tuple[str, str] | None:
        ids, expected_ids = self.object_id.tolist(), expected.tolist()
        missing, extra = sorted(set(expected_ids) - set(ids)), sorted(set(ids) - set(expected_ids))
        rollouts, steps = self.heading.shape[0], self.heading.shape[2]
        if len(ids) != len(set(ids)):
            return "object_id", "has an id twice"
        if missing:
            return "object_id", f"{len(missing)} agents are missing: {_abbreviate(missing)}"
        if extra:
            return "object_id", f"has {len(extra)} agents that are not valid at the current step: {_abbreviate(extra)}"
        if num_rollouts is not None and rollouts != num_rollouts:
            return "joint_scenes", f"has {rollouts} rollouts, expected {num_rollouts}"
        if steps != num_steps:
            return "simulated_trajectories", f"has {steps} steps, expected {num_steps}"
        if not (np.isfinite(self.xyz).all() and np.isfinite(self.heading).all()):
            return "simulated_trajectories", "has numbers that are not finite"
        return None


def read_npz(path: str | os.PathLike[str]) -> RolloutFile:
    """Reads rollouts from arrays `object_id` [A], `x`, `y`, `z`, `heading` [K, A, F], world frame.

    Raises:
      DataError: The file cannot be read, or an array is missing or has an invalid shape.
    """
    path, arrays = os.fspath(path), {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("object_id", *TRAJECTORY_FIELDS) if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy=NPZ_REMEDY) from error
    try:
        return _from_arrays(arrays)
    except DataError as error:
        raise error.with_location(file=path) from None


def _from_arrays(arrays: dict[str, np.ndarray]) -> RolloutFile:
    for name in ("object_id", *TRAJECTORY_FIELDS):
        if name not in arrays:
            raise DataError("missing array", field=name, remedy=NPZ_REMEDY)
    ids, shape = arrays["object_id"], arrays["x"].shape
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError("is not a list of integers", field="object_id", remedy=NPZ_REMEDY)
    for name in TRAJECTORY_FIELDS:
        values = arrays[name]
        if values.shape != shape or len(shape) != 3 or shape[1] != len(ids) or not shape[0]:
            problem = f"has shape {values.shape}, expected the shape (rollouts, {len(ids)}, steps) for all arrays"
            raise DataError(problem, field=name, remedy=NPZ_REMEDY)
        if not np.issubdtype(values.dtype, np.floating):
            raise DataError("is not an array of floats", field=name, remedy=NPZ_REMEDY)
    xyz = np.stack([arrays[axis] for axis in "xyz"], axis=-1).astype(np.float32)
    return RolloutFile("", ids.astype(np.int64), xyz, arrays["heading"].astype(np.float32))


def unpack_submission(path: str | os.PathLike[str], folder: Path) -> int:
    """Writes every scenario of a submission to a file of its own, see `rollouts_path`.

    At most one shard is in memory. Rollouts are not decoded.

    Returns:
      The number of scenarios.

    Raises:
      DataError: The file is not a submission.
    """
    path, count = os.fspath(path), 0
    for data in _shards(path):
        try:
            fields = protobuf.decode(data, "SimAgentsChallengeSubmission")
            for message in protobuf.blobs(fields, SCENARIO_ROLLOUTS_FIELD, "scenario_rollouts"):
                scenario_id = protobuf.text(
                    protobuf.decode(message, "scenario_rollouts"), SCENARIO_ID_FIELD, "scenario_id"
                )
                rollouts_path(folder, scenario_id).write_bytes(message)
                count += 1
        except DataError as error:
            raise error.with_location(file=path) from None
    if not count:
        raise DataError("has no scenario", file=path, field="scenario_rollouts", remedy=SUBMISSION_REMEDY)
    return count


def rollouts_path(folder: Path, scenario_id: str) -> Path:
    """The file of a scenario in a folder of rollouts.

    Raises:
      DataError: The id is too long.
    """
    if len(scenario_id.encode("utf-8")) > ID_BYTES:
        raise DataError(f"has more than {ID_BYTES} bytes", field="scenario_id", remedy=SUBMISSION_REMEDY)
    return folder / f"{quote(scenario_id, safe='')}.binproto"


def read_rollouts(folder: Path, scenario_id: str) -> RolloutFile:
    """Reads the rollouts of a scenario from a folder of `unpack_submission`.

    Raises:
      DataError: The folder has no rollouts of the scenario, or they are damaged.
    """
    file = rollouts_path(folder, scenario_id)
    if not file.exists():
        raise DataError(f"has no rollouts of scenario {scenario_id!r}", field="scenario_id")
    return decode_rollouts(file.read_bytes())


def _shards(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        if not compressed:
            yield Path(path).read_bytes()
            return
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.size > MAX_MESSAGE_BYTES:
                    raise DataError(
                        f"{member.name} is larger than {MAX_MESSAGE_BYTES} bytes", file=path, remedy=SUBMISSION_REMEDY
                    )
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield content.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy=SUBMISSION_REMEDY) from error


def decode_rollouts(data: bytes) -> RolloutFile:
    """Decodes a `ScenarioRollouts` message; agents have the order of the first rollout.

    Raises:
      DataError: The message is damaged, rollouts have different agents, or tracks have different lengths.
    """
    fields = protobuf.decode(data, "scenario_rollouts")
    scenario_id = protobuf.text(fields, SCENARIO_ID_FIELD, "scenario_id")
    scenes = []
    for index, scene in enumerate(protobuf.blobs(fields, JOINT_SCENES_FIELD, "joint_scenes")):
        name = f"joint_scenes[{index}]"
        tracks = {}
        for message in protobuf.blobs(protobuf.decode(scene, name), TRAJECTORIES_FIELD, name):
            track = protobuf.decode(message, f"{name}.simulated_trajectories")
            columns = [
                protobuf.numbers(track, number, f"{name}.{column}", "<f4")
                for column, number in TRAJECTORY_FIELDS.items()
            ]
            if len({len(column) for column in columns}) > 1:
                raise DataError(f"scenario {scenario_id!r} has a track with columns of different lengths", field=name)
            tracks[protobuf.integer(track, OBJECT_ID_FIELD, f"{name}.object_id")] = np.stack(columns, axis=-1)
        if len(tracks) != len(protobuf.blobs(protobuf.decode(scene, name), TRAJECTORIES_FIELD, name)):
            raise DataError(f"scenario {scenario_id!r} has an id twice", field=name)
        scenes.append(tracks)
    if not scenes or not scenes[0]:
        raise DataError(f"scenario {scenario_id!r} has no rollouts", field="joint_scenes", remedy=SUBMISSION_REMEDY)
    ids = list(scenes[0])
    for index, tracks in enumerate(scenes):
        if tracks.keys() != scenes[0].keys():
            problem = f"scenario {scenario_id!r} has other agents than in the first rollout"
            raise DataError(problem, field=f"joint_scenes[{index}]")
        if {len(track) for track in tracks.values()} != {len(scenes[0][ids[0]])}:
            raise DataError(f"scenario {scenario_id!r} has tracks of different lengths", field=f"joint_scenes[{index}]")
    states = np.stack([np.stack([tracks[agent] for agent in ids]) for tracks in scenes])
    return RolloutFile(scenario_id, np.array(ids, np.int64), states[..., :3], states[..., 3])


def encode_rollouts(rollouts: RolloutFile) -> bytes:
    """The `ScenarioRollouts` message of one scenario."""
    states = np.concatenate([rollouts.xyz, rollouts.heading[..., None]], axis=-1).astype("<f4")
    columns = np.ascontiguousarray(np.moveaxis(states, -1, 0))
    parts = [_field(SCENARIO_ID_FIELD, rollouts.scenario_id.encode("utf-8"))]
    for scene in range(states.shape[0]):
        tracks = []
        for row, agent in enumerate(rollouts.object_id.tolist()):
            track = [
                _field(number, columns[index, scene, row].tobytes())
                for index, number in enumerate(TRAJECTORY_FIELDS.values())
            ]
            track.append(_varint(OBJECT_ID_FIELD << 3 | protobuf.VARINT) + _varint(agent))
            tracks.append(_field(TRAJECTORIES_FIELD, b"".join(track)))
        parts.append(_field(JOINT_SCENES_FIELD, b"".join(tracks)))
    return b"".join(parts)


def write_submission(
    path: str | os.PathLike[str], scenarios: Sequence[Path], num_shards: int, account: str = "", method: str = ""
) -> None:
    """Writes a submission: a tar.gz of shards, each a complete message. At most one shard is in memory.

    Args:
      path: File to write; it is renamed to its path when it is complete.
      scenarios: Files with the bytes of `encode_rollouts`, one per scenario, which are dealt to the shards in turn.
      num_shards: Number of shards.
      account: E-mail address of the submitting account.
      method: Name of the method.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    header = _varint(SUBMISSION_TYPE_FIELD << 3 | protobuf.VARINT) + _varint(SIM_AGENTS_SUBMISSION)
    header += _field(ACCOUNT_FIELD, account.encode("utf-8")) + _field(METHOD_FIELD, method.encode("utf-8"))
    with tarfile.open(partial, "w:gz", compresslevel=1) as archive:
        for shard in range(num_shards):
            messages = [_field(SCENARIO_ROLLOUTS_FIELD, file.read_bytes()) for file in scenarios[shard::num_shards]]
            content = b"".join([*messages, header])
            member = tarfile.TarInfo(f"{SHARD_NAME}-{shard:05d}-of-{num_shards:05d}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    os.replace(partial, path)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | protobuf.LEN) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value, out = value % (1 << 64), bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _abbreviate(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
