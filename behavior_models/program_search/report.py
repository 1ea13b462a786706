"""Results of a search as rows: the best programs, and the best program for each length."""

from typing import Any

import jax
import jax.numpy as jnp

from behavior_models.program_search.domain import Domain
from behavior_models.program_search.export import from_json, num_live_nodes, to_formula, to_json, to_latex, to_python
from behavior_models.program_search.run import SearchResult
from waymax_sim.pytree import tree_index


def search_rows(domain: Domain, result: SearchResult, count: int) -> list[dict[str, Any]]:
    """The best programs of each seed, best first.

    Args:
      domain: The domain.
      result: The search.
      count: Programs per seed.
    """
    space, rows = domain.space, []
    for seed in range(len(result.archive.fitness)):
        for rank, (fitness, program) in enumerate(result.best(seed, count)):
            row = {
                "seed": seed,
                "rank": rank,
                "fitness": fitness,
                "held_out": None,
                "nodes": num_live_nodes(space, program),
                "formula": to_formula(space, program),
                "latex": to_latex(space, program),
                "json": to_json(space, program),
                "python": to_python(space, program),
            }
            rows.append(row)
    return rows


def held_out_fitness(domain: Domain, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the fitness of their programs in another domain of the same space.

    Args:
      domain: The domain with other data.
      rows: Rows of `search_rows`.
    """
    programs = [from_json(domain.space, row["json"]) for row in rows]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *programs)
    fitness = jax.jit(domain.evaluate)(batch)
    return [row | {"held_out": float(value)} for row, value in zip(rows, fitness, strict=True)]


def find_front(domain: Domain, result: SearchResult) -> dict[int, tuple[float, str]]:
    """Numbers of nodes at which the largest fitness increases, with that fitness and the formula.

    Args:
      domain: The domain.
      result: The search.
    """
    space, best = domain.space, {}
    for seed, fitness in enumerate(result.archive.fitness):
        programs = tree_index(result.archive.programs, seed)
        for row, value in enumerate(fitness):
            program = tree_index(programs, row)
            length = num_live_nodes(space, program)
            if length not in best or value > best[length][0]:
                best[length] = float(value), program
    front, largest = {}, -float("inf")
    for length in sorted(best):
        value, program = best[length]
        if value > largest:
            front[length], largest = (value, to_formula(space, program)), value
    return front
