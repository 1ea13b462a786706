"""Rows of earlier runs that are still valid: those of scenes that are among the inputs and have the same content."""

from collections.abc import Callable

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import source_stamp
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.results_dir import Json, ResultsDir


def remove_stale_rows(directory: ResultsDir, scenarios: Scenarios, digest: Callable[[int], str]) -> None:
    """Removes the rows of scenes that are absent now, or have changed. Only scenes of changed files are read.

    Args:
      directory: Directory of rows with file, record and digest of their scenes.
      scenarios: The scenes.
      digest: Function from the index of a scene to the digest of its content.

    Raises:
      BlockingIOError: Another process appends to rows that are to be removed.
    """
    index_by_source = {scenarios.source(index): index for index in range(len(scenarios))}
    stamps = {name: source_stamp(name) for name in dict.fromkeys(file for file, _ in index_by_source)}

    def stale(changed: set[str], rows: list[Json]) -> Callable[[Json], bool]:
        known = {(row["file"], row["record"]) for row in rows if row["file"] in changed and "error" not in row}
        current = {source: _digest(digest, index_by_source[source]) for source in known & index_by_source.keys()}

        def is_stale(row: Json) -> bool:
            source = row["file"], row["record"]
            if source not in index_by_source:
                return True
            return row["file"] in changed and row.get("digest") != current.get(source)

        return is_stale

    directory.refresh(stamps, stale)


def _digest(digest: Callable[[int], str], index: int) -> str | None:
    """The digest of a scene; None for a scene that cannot be read."""
    try:
        return digest(index)
    except DataError:
        return None
