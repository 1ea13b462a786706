"""Evaluation of data sets larger than memory: scenes are prefetched, grouped into chunks of equal shape and mapped."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from waymax_sim.datasets.errors import DataError, locate_errors
from waymax_sim.datasets.prefetch import prefetch
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datatypes.padding import pad, pad_steps, pad_to_class, stack_scenarios, step_class_length
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.evaluation.sharding import SceneFunction, map_scenes, scene_key
from waymax_sim.pytree import tree_index

# Chunks per block. Scenes of a block are read together, and those of equal shapes share chunks.
CHUNKS_PER_BLOCK = 4

SourceRecord = tuple[str, int]  # file and record
Block = list[tuple[SourceRecord, Scenario | DataError]]
Chunk = list[tuple[int, Scenario]]  # scenes of equal shapes with their indices


@dataclasses.dataclass(frozen=True)
class SceneOutput:
    """Output of a function for one scene of a stream.

    Attributes:
      file: File of the scene.
      record: Index of its record in the file.
      scenario_id: Id of the source.
      output: Return value of the function, on the host.
    """

    file: str
    record: int
    scenario_id: str
    output: Any


def stream_scenes(
    function: SceneFunction,
    scenarios: Scenarios,
    *,
    chunk: int,
    seed: int = 0,
    pad_to: Mapping[str, int] | None = None,
    memory_budget: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[SceneOutput | DataError]:
    """Applies a function of one scene to a whole source, which need not fit into memory.

    Results have the order of the source; a scene that cannot be read yields its error. A thread reads the next block of
    chunks during simulation. Scenes of equal shapes share a chunk, and an incomplete chunk is filled with repeats, so a
    result does not depend on the other scenes.

    Args:
      function: See `map_scenes`.
      scenarios: The scenes.
      chunk: Scenes per chunk, which are on the devices at the same time.
      seed: Seed of all random draws; the key of a scene is `scene_key(seed, scenario_id)`.
      pad_to: Axis lengths, as `axis_lengths` returns them, that every scene is padded to, so that all scenes share one
        compiled program; a larger scene yields an error. By default a scene keeps the lengths it was loaded with, and
        every new combination is compiled separately.
      memory_budget: See `map_scenes`.
      mesh: See `map_scenes`.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} is not a number of scenes; give 1 or more")
    run = functools.partial(map_scenes, function, memory_budget=memory_budget, mesh=mesh)
    for block in prefetch(_iter_blocks(scenarios, CHUNKS_PER_BLOCK * chunk, pad_to), 1):
        results: list[Any] = [outcome for _, outcome in block]
        for group in list(group_scenes(enumerate(results), _shape, lambda _: chunk)):
            if isinstance(group, tuple):
                continue
            members = [scenario for _, scenario in group]
            keys = [scene_key(seed, scenario.scenario_id) for scenario in members]
            outputs = jax.device_get(run(stack_chunk(members, chunk), jnp.stack(repeat_cyclically(keys, chunk))))
            for row, (index, scenario) in enumerate(group):
                results[index] = SceneOutput(*block[index][0], scenario.scenario_id, tree_index(outputs, row))
        yield from results


def iter_chunks(
    scenarios: Scenarios,
    indices: Iterable[int],
    chunk_size: Callable[[Scenario], int],
    check: Callable[[Scenario], None] = lambda scenario: None,
) -> Iterator[Chunk | tuple[int, DataError]]:
    """Scenes in chunks of equal shape and current step, prefetched; a scene that cannot be read yields its error.

    Scenes are padded to their `size_class_lengths` and `step_class_length`, so that the shape of a scene does not
    depend on the others.

    Args:
      scenarios: The scenes.
      indices: Indices of the scenes, in the order of reading.
      chunk_size: Scenes per chunk, given one of them. Only the last chunks of a shape are shorter.
      check: Raises a `DataError` for a scene to leave out.

    Returns:
      Chunks of (index, scene), or (index, error).
    """
    outcomes = ((index, _read_checked(scenarios, index, check)) for index in indices)
    # The current step determines the largest number of steps to simulate.
    return prefetch(group_scenes(outcomes, lambda scene: (_shape(scene), int(scene.current_step)), chunk_size), 1)


def group_scenes(
    outcomes: Iterable[tuple[int, Scenario | DataError]],
    key: Callable[[Scenario], Hashable],
    chunk_size: Callable[[Scenario], int],
) -> Iterator[Chunk | tuple[int, DataError]]:
    """Groups scenes by a key into chunks. A complete chunk is yielded immediately, an incomplete one at the end.

    Args:
      outcomes: Scenes or errors with their indices; errors are passed on.
      key: Scenes of equal keys can share a chunk.
      chunk_size: Scenes per chunk, given one of them.
    """
    pending: dict[Hashable, Chunk] = {}
    for index, outcome in outcomes:
        if isinstance(outcome, DataError):
            yield index, outcome
            continue
        group = key(outcome)
        chunk = pending.setdefault(group, [])
        chunk.append((index, outcome))
        if len(chunk) == chunk_size(outcome):
            yield pending.pop(group)
    yield from pending.values()


def stack_chunk(members: list[Scenario], chunk_size: int) -> Scenario:
    """Stacks scenes of equal shapes to a batch of `chunk_size`; repeats keep the shape, and with it the program."""
    return stack_scenarios(repeat_cyclically(members, chunk_size))


def repeat_cyclically(items: list, length: int) -> list:
    """The items, followed by repeats up to a length."""
    return [items[row % len(items)] for row in range(length)]


def read_padded_to_class(scenarios: Scenarios, index: int) -> Scenario:
    """A scene, padded to its `size_class_lengths` and `step_class_length`.

    Raises:
      DataError: The scene cannot be read.
    """
    scenario = scenarios[index]
    return pad_to_class(pad_steps(scenario, step_class_length(scenario.num_steps)))


def _read_checked(scenarios: Scenarios, index: int, check: Callable[[Scenario], None]) -> Scenario | DataError:
    try:
        with locate_errors(*scenarios.source(index)):
            scenario = read_padded_to_class(scenarios, index)
            check(scenario)
            return scenario
    except DataError as error:
        return error


def _iter_blocks(scenarios: Scenarios, size: int, pad_to: Mapping[str, int] | None) -> Iterator[Block]:
    """Scenes of the source in blocks of at most `size`, padded."""
    for start in range(0, len(scenarios), size):
        block = scenarios[start : start + size]
        yield [(source, _padded(outcome, source, pad_to)) for source, outcome in block.iter_results()]


def _padded(
    outcome: Scenario | DataError, source: SourceRecord, lengths: Mapping[str, int] | None
) -> Scenario | DataError:
    if lengths is None or isinstance(outcome, DataError):
        return outcome
    try:
        return pad(outcome, lengths)
    except ValueError as error:
        return DataError(str(error), file=source[0], record=source[1], remedy="give larger axis lengths in `pad_to`")


def _shape(scenario: Scenario) -> Hashable:
    """Tree structure and shapes of all leaves."""
    leaves, structure = jax.tree.flatten(scenario)
    return structure, *(leaf.shape for leaf in leaves)
