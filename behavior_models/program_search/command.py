"""The command `waymax-sim search`."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from waymax_sim.results_dir import write_json, write_text

DomainName = Literal["follower", "idm_law", "optimizer", "reward", "rl_loss"]
# Width of tables, characters.
SEARCH_TABLE_WIDTH = 160
# Mutations per child without a comparison: enough for one new function.
UNFILTERED_TRIES = 4
# Programs that are written for each seed.
NUM_BEST = 5


def search(
    domain: Annotated[DomainName, tyro.conf.Positional],
    out: Path,
    data: str = "synthetic:0:100",
    held_out: str | None = None,
    budget: int = 2000,
    seeds: int = 3,
    seed: int = 0,
    population: int = 100,
    children: int = 4,
    filter: Literal["learned", "none"] = "learned",
    devices: int = 1,
) -> int:
    """Searches programs of simple operators, guided by a learned comparison; an interrupted search is resumed.

    Args:
      domain: Programs and fitness: car-following laws that reproduce recorded followers (follower), formulas for the
        acceleration of the Intelligent Driver Model (idm_law), a test of the search, update rules of gradient descent
        (optimizer), rewards that agree with logged motion (reward), or losses of value learners (rl_loss).
      out: Folder for best.json, the programs as text, front.csv and search.png.
      data: Scenes of the domain: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT.
      held_out: Scenes on which the best programs are evaluated; none by default.
      budget: Programs that are evaluated for each seed.
      seeds: Number of searches, in one program.
      seed: Seed of the first search.
      population: Members of the population.
      children: Programs per step, which are evaluated together.
      filter: Comparison that filters mutations; none is evolution alone.
      devices: Devices that share the children of a step; their number must divide that of the children.
    """
    # Imported on use: the other commands do not load the learning libraries.
    from behavior_models.program_search.domains import load_domain
    from behavior_models.program_search.evolution import Search, SearchConfig
    from behavior_models.program_search.report import find_front, held_out_fitness, search_rows
    from behavior_models.program_search.run import run_search
    from behavior_models.training.devices import device_mesh, use_cpu_devices
    from waymax_sim.viz.search_curves import draw_search

    use_cpu_devices(devices)
    try:
        mesh = device_mesh(children, devices)
        # Without a comparison the first new function is taken.
        tries = SearchConfig.num_tries if filter == "learned" else UNFILTERED_TRIES
        config = SearchConfig(budget, population, num_tries=tries, num_children=children, filter=filter)
        content = load_domain(domain, data)
        evaluated = None if held_out is None else load_domain(domain, held_out)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            progress = bar.add_task(domain, total=budget)

            def report(count: int, fitness: float) -> None:
                bar.update(progress, completed=count, description=f"{domain}: best {fitness:.4g}")

            result = run_search(out, Search(content, config, mesh), list(range(seed, seed + seeds)), report)
    except ValueError as error:
        sys.exit(str(error))
    rows = search_rows(content, result, NUM_BEST)
    if evaluated is not None:
        rows = held_out_fitness(evaluated, rows)
    front = find_front(content, result)
    for row in rows:
        name = f"seed_{row['seed']}_{row['rank']}"
        write_text(out / f"{name}.json", row.pop("json"))
        write_text(out / f"{name}.py", row.pop("python"))
    write_json(out / "best.json", {"domain": domain, "programs": rows, "win_rates": result.win_rates_or_none})
    lines = (f'{nodes},{fitness},"{formula}"' for nodes, (fitness, formula) in front.items())
    write_text(out / "front.csv", "\n".join(["nodes,fitness,formula", *lines, ""]))
    draw_search(result.curves, {length: item[0] for length, item in front.items()}, out / "search.png")
    Console(width=SEARCH_TABLE_WIDTH, markup=False, highlight=False).print(_table(domain, rows))
    print(f"wrote {out / 'best.json'}, {out / 'front.csv'} and {out / 'search.png'}")
    return 0


def _table(domain: str, rows: list[dict[str, Any]]) -> Table:
    """The best program of each seed."""
    table = Table("seed", "fitness", "held-out", "nodes", "formula", title=f"Best programs of {domain}")
    for row in rows:
        if row["rank"] == 0:
            held_out = "" if row["held_out"] is None else f"{row['held_out']:.4g}"
            table.add_row(str(row["seed"]), f"{row['fitness']:.4g}", held_out, str(row["nodes"]), row["formula"])
    return table
