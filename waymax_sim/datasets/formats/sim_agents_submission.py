"""Reader and writer of submissions to the Waymo Open Sim Agents Challenge, and reader of rollouts as plain arrays.

A submission is a `SimAgentsChallengeSubmission` message, or a tar.gz or tar of shards that are such messages. Field
numbers are those of sim_agents_submission.proto; no generated classes are needed.
"""

import dataclasses
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.datasets.encoding.tar import BoundedStream, is_tar, iter_members
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.regular_file import open_regular
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
# Name of a shard in an archive.
NUMBERED_SHARD = re.compile(r"(?P<name>.+)-(?P<shard>\d{5})-of-(?P<count>\d{5})")
MAX_SCENARIO_BYTES = 2**28  # 32 rollouts of 128 agents take 5 MB
# Largest number of scenarios; the test set of WOMD has 45,000.
MAX_SCENARIOS = 200_000
# Largest number of other fields of a shard; the format has about ten.
MAX_SHARD_FIELDS = 1000
NPZ_REMEDY = "give an .npz with object_id, x, y, z and heading"
SUBMISSION_REMEDY = "give a SimAgentsChallengeSubmission (.binproto) or a .tar.gz of its shards"
ROLLOUTS_REMEDY = "the challenge refuses it; allow any number of rollouts to score it nevertheless"


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
    path = os.fspath(path)
    arrays = read_npz_arrays(path, ("object_id", *TRAJECTORY_FIELDS), NPZ_REMEDY)
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
    with np.errstate(over="ignore"):  # infinite values are refused by `RolloutFile.check`
        xyz = np.stack([arrays[axis].astype(np.float32) for axis in "xyz"], axis=-1)
    return RolloutFile("", ids.astype(np.int64), xyz, arrays["heading"].astype(np.float32))


def unpack_submission(path: str | os.PathLike[str], folder: Path, num_rollouts: int | None = None) -> int:
    """Writes every scenario of a submission to a file of its own, see `rollouts_path`.

    At most one scenario is in memory. Rollouts are not decoded.

    Args:
      path: The submission.
      folder: Folder of the files.
      num_rollouts: Required number of rollouts of each scenario; None for any number.

    Returns:
      The number of scenarios.

    Raises:
      DataError: The file is not a submission, lacks shards, has a scenario twice, or has another number of rollouts.
    """
    path, scenario_ids = os.fspath(path), set()
    try:
        for message in _scenario_messages(path):
            scenario_id = _check_message(message, num_rollouts)
            if scenario_id in scenario_ids or len(scenario_ids) == MAX_SCENARIOS:
                problem = "twice" if scenario_id in scenario_ids else f"and more than {MAX_SCENARIOS} others"
                raise DataError(
                    f"has scenario {scenario_id!r} {problem}", field="scenario_id", remedy=SUBMISSION_REMEDY
                )
            scenario_ids.add(scenario_id)
            rollouts_path(folder, scenario_id).write_bytes(message)
    except DataError as error:
        located = error.with_location(file=path)
        raise DataError(
            located.problem, file=path, field=located.field, remedy=located.remedy or SUBMISSION_REMEDY
        ) from None
    if not scenario_ids:
        raise DataError("has no scenario", file=path, field="scenario_rollouts", remedy=SUBMISSION_REMEDY)
    return len(scenario_ids)


def _check_message(message: bytes, num_rollouts: int | None) -> str:
    """The scenario id of a `ScenarioRollouts` message, after checking its number of rollouts."""
    fields = protobuf.decode(message, "scenario_rollouts")
    scenario_id = protobuf.text(fields, SCENARIO_ID_FIELD, "scenario_id")
    count = len(fields.get(JOINT_SCENES_FIELD, []))
    if num_rollouts is not None and count != num_rollouts:
        problem = f"scenario {scenario_id!r} has {count} rollouts, expected {num_rollouts}"
        raise DataError(problem, field="joint_scenes", remedy=ROLLOUTS_REMEDY)
    return scenario_id


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


def _scenario_messages(path: str) -> Iterator[bytes]:
    """The `ScenarioRollouts` messages of a submission, in order."""
    with open_regular(path) as file:
        if not is_tar(file):
            yield from _split_shard(BoundedStream(file, os.fstat(file.fileno()).st_size))
            return
        names = []
        for member in iter_members(file):
            names.append(member.name)
            yield from _split_shard(member.stream)
    _check_shard_names(names)


def _split_shard(stream: BoundedStream) -> Iterator[bytes]:
    """The `ScenarioRollouts` messages of a `SimAgentsChallengeSubmission`, read one by one."""
    num_others = 0
    while stream.remaining:
        tag = _read_varint(stream)
        number, wire = tag >> 3, tag & 7
        if not number or wire not in (protobuf.VARINT, protobuf.LEN) or num_others > MAX_SHARD_FIELDS:
            raise DataError("is not a SimAgentsChallengeSubmission", field=f"field number {number}")
        value = _read_varint(stream)
        if wire == protobuf.VARINT or number != SCENARIO_ROLLOUTS_FIELD:
            num_others += 1
        if wire == protobuf.LEN:
            if value > MAX_SCENARIO_BYTES:
                raise DataError(f"has a message larger than {MAX_SCENARIO_BYTES} bytes", field="scenario_rollouts")
            message = stream.read(value)
            if number == SCENARIO_ROLLOUTS_FIELD:
                yield message


def _read_varint(stream: BoundedStream) -> int:
    data = b""
    while not data or (data[-1] >= 0x80 and len(data) < 11):
        data += stream.read(1)
    return protobuf.varint(data, 0, "SimAgentsChallengeSubmission")[0]


def _check_shard_names(names: list[str]) -> None:
    """Checks that an archive has one complete set of numbered shards, or a single file.

    Raises:
      DataError: It has other files, shards are missing, or a name is not relative.
    """
    outside = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise DataError(f"has a file with the name {outside[0]!r}", field="shards")
    forms = [form for name in names if (form := NUMBERED_SHARD.fullmatch(name))]
    if len(forms) < len(names) and len(names) > 1:
        other = next(name for name in names if not NUMBERED_SHARD.fullmatch(name))
        raise DataError(f"has {other!r} and other files; names of shards end with -00000-of-00002", field="shards")
    if len({(form["name"], form["count"]) for form in forms}) > 1:
        raise DataError(f"has shards of different sets, such as {names[0]!r} and {names[-1]!r}", field="shards")
    count = int(forms[0]["count"]) if forms else 0
    shards = [int(form["shard"]) for form in forms]
    missing = sorted(set(range(count)) - set(shards))
    if missing or len(shards) != count * bool(forms):
        problem = (
            f"misses shards {_abbreviate(missing)}" if missing else "has a shard twice, or more than its names say"
        )
        raise DataError(f"{problem} of {count}", field="shards")


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
    header += _field(ACCOUNT_FIELD, account.encode("utf-8", errors="replace")) + _field(
        METHOD_FIELD, method.encode("utf-8", errors="replace")
    )
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
