"""Rollouts in files: submissions to the Waymo Open Sim Agents Challenge, and plain arrays.

A submission is a `SimAgentsChallengeSubmission` message, or a tar.gz of shards that are such messages. Field numbers
are those of sim_agents_submission.proto, read and written without generated classes.
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

# What the challenge asks for.
NUM_ROLLOUTS, NUM_STEPS = 32, 80
# Field numbers: of a submission, of the rollouts of a scenario, and of the columns of a trajectory.
SCENARIO, TYPE, ACCOUNT, METHOD = 1, 2, 3, 4
SCENARIO_ID, JOINT_SCENE = 1, 2
TRAJECTORY = 1
COLUMNS = {"x": 2, "y": 3, "z": 4, "heading": 5}
OBJECT_ID = 6
SIM_AGENTS = 1
NAME = "submission.binproto"
# No message is larger (bytes).
LARGEST = 2**31
ARRAYS = "give an .npz with object_id, x, y, z and heading"
REMEDY = "give a SimAgentsChallengeSubmission (.binproto) or a .tar.gz of its shards"


@dataclasses.dataclass(frozen=True)
class RolloutFile:
    """Rollouts of one scenario as files hold them.

    Attributes:
      scenario_id: Id of the source; "" where the file does not say.
      object_id: Track ids.
      xyz: Centres of the boxes, m, world frame.
      heading: rad, as simulated.
    """

    scenario_id: str
    object_id: Int[np.ndarray, " A"]
    xyz: Float[np.ndarray, "K A F 3"]
    heading: Float[np.ndarray, "K A F"]

    def check(
        self, expected: Int[np.ndarray, " n"], num_steps: int = NUM_STEPS, num_rollouts: int | None = None
    ) -> None:
        """Refuses what the challenge would refuse.

        Args:
          expected: Ids of the agents that are there at the current step.
          num_steps: Steps after the current one.
          num_rollouts: How many there must be; None for any number.

        Raises:
          DataError: Ids, counts or lengths are not as they must be, or a number is not finite.
        """
        problem = self._problem(expected, num_steps, num_rollouts)
        if problem is not None:
            raise DataError(f"scenario {self.scenario_id!r}: {problem[1]}", field=problem[0])

    def _problem(self, expected, num_steps, num_rollouts) -> tuple[str, str] | None:
        found, wanted = self.object_id.tolist(), expected.tolist()
        missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        have, steps = self.heading.shape[0], self.heading.shape[2]
        if len(found) != len(set(found)):
            return "object_id", "an id is there twice"
        if missing:
            return "object_id", f"{len(missing)} agents are missing: {_some(missing)}"
        if extra:
            return "object_id", f"{len(extra)} agents are not there at the current step: {_some(extra)}"
        if num_rollouts is not None and have != num_rollouts:
            return "joint_scenes", f"has {have} rollouts where {num_rollouts} are expected"
        if steps != num_steps:
            return "simulated_trajectories", f"has {steps} steps where {num_steps} are expected"
        if not (np.isfinite(self.xyz).all() and np.isfinite(self.heading).all()):
            return "simulated_trajectories", "has numbers that are not finite"
        return None


def read_npz(path: str | os.PathLike[str]) -> RolloutFile:
    """Rollouts given as arrays `object_id` [A], `x`, `y`, `z`, `heading` [K, A, F], world frame.

    Raises:
      DataError: The file cannot be read, or an array is missing or has a wrong shape.
    """
    path, arrays = os.fspath(path), {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("object_id", *COLUMNS) if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy=ARRAYS) from error
    try:
        return _from_arrays(arrays)
    except DataError as error:
        raise error.at(file=path) from None


def _from_arrays(arrays: dict[str, np.ndarray]) -> RolloutFile:
    for name in ("object_id", *COLUMNS):
        if name not in arrays:
            raise DataError("missing array", field=name, remedy=ARRAYS)
    ids, shape = arrays["object_id"], arrays["x"].shape
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError("is not a list of integers", field="object_id", remedy=ARRAYS)
    for name in COLUMNS:
        values = arrays[name]
        if values.shape != shape or len(shape) != 3 or shape[1] != len(ids) or not shape[0]:
            problem = f"has shape {values.shape} where (rollouts, {len(ids)}, steps) is expected, equal for all"
            raise DataError(problem, field=name, remedy=ARRAYS)
        if not np.issubdtype(values.dtype, np.floating):
            raise DataError("is not an array of floats", field=name, remedy=ARRAYS)
    xyz = np.stack([arrays[axis] for axis in "xyz"], axis=-1).astype(np.float32)
    return RolloutFile("", ids.astype(np.int64), xyz, arrays["heading"].astype(np.float32))


def unpack_submission(path: str | os.PathLike[str], folder: Path) -> int:
    """Writes every scenario of a submission to a file of its own, see `file_of`, and says how many there are.

    Memory is that of one shard. Scenarios are decoded later, one by one.

    Raises:
      DataError: The file is not a submission.
    """
    path, count = os.fspath(path), 0
    for data in _shards(path):
        try:
            fields = protobuf.decode(data, "SimAgentsChallengeSubmission")
            for message in protobuf.blobs(fields, SCENARIO, "scenario_rollouts"):
                scenario_id = protobuf.text(protobuf.decode(message, "scenario_rollouts"), SCENARIO_ID, "scenario_id")
                file_of(folder, scenario_id).write_bytes(message)
                count += 1
        except DataError as error:
            raise error.at(file=path) from None
    if not count:
        raise DataError("has no scenario", file=path, field="scenario_rollouts", remedy=REMEDY)
    return count


def file_of(folder: Path, scenario_id: str) -> Path:
    """The file of a scenario in a folder of rollouts.

    Raises:
      DataError: The id is too long to be one.
    """
    if len(scenario_id.encode("utf-8")) > ID_BYTES:
        raise DataError("is longer than an id can be", field="scenario_id", remedy=REMEDY)
    return folder / f"{quote(scenario_id, safe='')}.binproto"


def read_rollouts(folder: Path, scenario_id: str) -> RolloutFile:
    """The rollouts of a scenario from a folder of them.

    Raises:
      DataError: There are none, or they are damaged.
    """
    file = file_of(folder, scenario_id)
    if not file.exists():
        raise DataError(f"there are no rollouts of scenario {scenario_id!r}", field="scenario_id")
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
                if member.size > LARGEST:
                    raise DataError(f"{member.name} is larger than a message can be", file=path, remedy=REMEDY)
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield content.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy=REMEDY) from error


def decode_rollouts(data: bytes) -> RolloutFile:
    """Reads a `ScenarioRollouts` message; agents are in the order of the first rollout.

    Raises:
      DataError: It is damaged, rollouts have different agents, or tracks have different lengths.
    """
    fields = protobuf.decode(data, "scenario_rollouts")
    scenario_id = protobuf.text(fields, SCENARIO_ID, "scenario_id")
    scenes = []
    for index, scene in enumerate(protobuf.blobs(fields, JOINT_SCENE, "joint_scenes")):
        name = f"joint_scenes[{index}]"
        tracks = {}
        for message in protobuf.blobs(protobuf.decode(scene, name), TRAJECTORY, name):
            track = protobuf.decode(message, f"{name}.simulated_trajectories")
            columns = [protobuf.numbers(track, number, f"{name}.{column}", "<f4") for column, number in COLUMNS.items()]
            if len({len(column) for column in columns}) > 1:
                raise DataError(f"scenario {scenario_id!r}: columns of different lengths", field=name)
            tracks[protobuf.integer(track, OBJECT_ID, f"{name}.object_id")] = np.stack(columns, axis=-1)
        if len(tracks) != len(protobuf.blobs(protobuf.decode(scene, name), TRAJECTORY, name)):
            raise DataError(f"scenario {scenario_id!r}: an id is there twice", field=name)
        scenes.append(tracks)
    if not scenes or not scenes[0]:
        raise DataError(f"scenario {scenario_id!r} has no rollouts", field="joint_scenes", remedy=REMEDY)
    ids = list(scenes[0])
    for index, tracks in enumerate(scenes):
        if tracks.keys() != scenes[0].keys():
            problem = f"scenario {scenario_id!r}: other agents than in the first rollout"
            raise DataError(problem, field=f"joint_scenes[{index}]")
        if {len(track) for track in tracks.values()} != {len(scenes[0][ids[0]])}:
            raise DataError(f"scenario {scenario_id!r}: tracks of different lengths", field=f"joint_scenes[{index}]")
    states = np.stack([np.stack([tracks[agent] for agent in ids]) for tracks in scenes])
    return RolloutFile(scenario_id, np.array(ids, np.int64), states[..., :3], states[..., 3])


def encode_rollouts(rollouts: RolloutFile) -> bytes:
    """The `ScenarioRollouts` message of one scenario."""
    states = np.concatenate([rollouts.xyz, rollouts.heading[..., None]], axis=-1).astype("<f4")
    columns = np.ascontiguousarray(np.moveaxis(states, -1, 0))
    parts = [_field(SCENARIO_ID, rollouts.scenario_id.encode("utf-8"))]
    for scene in range(states.shape[0]):
        tracks = []
        for row, agent in enumerate(rollouts.object_id.tolist()):
            track = [
                _field(number, columns[index, scene, row].tobytes()) for index, number in enumerate(COLUMNS.values())
            ]
            track.append(_varint(OBJECT_ID << 3 | protobuf.VARINT) + _varint(agent))
            tracks.append(_field(TRAJECTORY, b"".join(track)))
        parts.append(_field(JOINT_SCENE, b"".join(tracks)))
    return b"".join(parts)


def write_submission(
    path: str | os.PathLike[str], scenarios: Sequence[Path], num_shards: int, account: str = "", method: str = ""
) -> None:
    """Packs scenarios into a submission: a tar.gz of shards, each complete in itself. Memory is that of one shard.

    Args:
      path: File to write, all of it or none.
      scenarios: One file for each scenario, from `encode_rollouts`; shards take turns.
      num_shards: How many.
      account: E-mail of the account that submits.
      method: Name of the method.
    """
    path = Path(path)
    half = path.with_name(path.name + ".part")
    facts = _varint(TYPE << 3 | protobuf.VARINT) + _varint(SIM_AGENTS)
    facts += _field(ACCOUNT, account.encode("utf-8")) + _field(METHOD, method.encode("utf-8"))
    with tarfile.open(half, "w:gz", compresslevel=1) as archive:
        for shard in range(num_shards):
            chosen = [_field(SCENARIO, file.read_bytes()) for file in scenarios[shard::num_shards]]
            content = b"".join([*chosen, facts])
            member = tarfile.TarInfo(f"{NAME}-{shard:05d}-of-{num_shards:05d}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    os.replace(half, path)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | protobuf.LEN) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value, out = value % (1 << 64), bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
