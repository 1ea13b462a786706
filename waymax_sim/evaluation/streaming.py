"""More scenes than fit into memory: read, simulated and given back chunk by chunk."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datatypes.padding import pad, pad_to_class
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.evaluation.sharding import SceneFunction, map_scenes, scene_key
from waymax_sim.pytree import stack, take

# So many chunks are read together: scenes of equal shapes among them share a chunk.
CHUNKS_AHEAD = 4

Place = tuple[str, int]  # file and record
Block = list[tuple[Place, Scenario | DataError]]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SceneOutput:
    """What a function gave for one scene of a stream.

    Attributes:
      file: File of the scene.
      record: Index of its record in the file.
      scenario_id: Id of the source.
      output: What the function returned, on the host.
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

    Results come in the order of the source; a scene that cannot be read gives its error instead. While some chunks are
    simulated, a thread reads the next. Scenes of equal shapes share a chunk; one that is not full is filled
    up with repeats, so a result does not depend on which other scenes there are.

    Args:
      function: See `map_scenes`.
      scenarios: The scenes.
      chunk: Scenes that are on the devices together.
      seed: Seed of all random draws; the key of a scene is `scene_key(seed, scenario_id)`.
      pad_to: Lengths of axes, as `sizes` gives them, that every scene is padded to, so that one compiled program does
        for all; a larger scene gives an error. By default a scene keeps the sizes it was loaded with, and every new
        combination compiles anew.
      memory_budget: See `map_scenes`.
      mesh: See `map_scenes`.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} scenes are too few; give 1 or more")
    run = functools.partial(map_scenes, function, memory_budget=memory_budget, mesh=mesh)
    for block in _ahead(_blocks(scenarios, CHUNKS_AHEAD * chunk, pad_to)):
        results: list[Any] = [outcome for _, outcome in block]
        for rows in _of_equal_shapes(results, chunk):
            # Repeats at the end keep the shape, and with it the program, the same.
            members = [cast(Scenario, results[rows[place % len(rows)]]) for place in range(chunk)]
            keys = jnp.stack([scene_key(seed, scenario.scenario_id) for scenario in members])
            outputs = jax.device_get(run(stack(members), keys))
            for place, row in enumerate(rows):
                results[row] = SceneOutput(*block[row][0], members[place].scenario_id, take(outputs, place))
        yield from results


def chunks(
    scenarios: Scenarios, indices: Iterable[int], length: Callable[[Scenario], int]
) -> Iterator[list[tuple[int, Scenario]] | tuple[int, DataError]]:
    """Scenes in chunks of one shape each, read ahead by a thread; a scene that cannot be read gives its error.

    Scenes are padded to their `size_class`, so that the shape of one does not depend on the others.

    Args:
      scenarios: The scenes.
      indices: Which of them, in the order they are read in.
      length: Scenes of a chunk, given one of them. Only the last chunks of a shape are shorter.

    Returns:
      Indices with scenes, or an index with what is wrong.
    """
    return _ahead(_chunks(scenarios, indices, length))


def _chunks(scenarios: Scenarios, indices: Iterable[int], length: Callable[[Scenario], int]) -> Iterator[Any]:
    waiting: dict[Any, list[tuple[int, Scenario]]] = {}
    for index in indices:
        try:
            scenario = pad_to_class(scenarios[index])
        except DataError as error:
            file, record = scenarios.source(index)
            yield index, error.at(file=file, record=record)
            continue
        # Scenes that have as far to go are simulated together.
        key = (_shape_of(scenario), int(scenario.current_step))
        waiting.setdefault(key, []).append((index, scenario))
        if len(waiting[key]) == length(scenario):
            yield waiting.pop(key)
    yield from waiting.values()


def _blocks(scenarios: Scenarios, size: int, pad_to: Mapping[str, int] | None) -> Iterator[Block]:
    """Scenes of the source in runs of at most `size`, padded."""
    for start in range(0, len(scenarios), size):
        block = scenarios[start : start + size]
        yield [(place, _padded(outcome, place, pad_to)) for place, outcome in block.attempt()]


def _padded(outcome: Scenario | DataError, place: Place, to: Mapping[str, int] | None) -> Scenario | DataError:
    if to is None or isinstance(outcome, DataError):
        return outcome
    try:
        return pad(outcome, to)
    except ValueError as error:
        return DataError(str(error), file=place[0], record=place[1], remedy="give larger sizes to pad to")


def _of_equal_shapes(outcomes: Sequence[Scenario | DataError], chunk: int) -> list[list[int]]:
    """Rows of scenes that can be stacked, at most `chunk` together."""
    groups: dict[Any, list[int]] = {}
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, Scenario):
            groups.setdefault(_shape_of(outcome), []).append(row)
    return [rows[start : start + chunk] for rows in groups.values() for start in range(0, len(rows), chunk)]


def _shape_of(scenario: Scenario) -> Any:
    leaves, structure = jax.tree.flatten(scenario)
    return structure, *(leaf.shape for leaf in leaves)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, none of them None; while the caller works on one, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
