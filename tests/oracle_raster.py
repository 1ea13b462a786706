"""A sequential float64 version of the raster: point by point, and box by box for each cell."""

import itertools
import math

import numpy as np

from behavior_models.encoders.raster import Raster
from tests.oracle_view import in_frame

# Points and box sides closer to the border or to the center of a cell may be rounded to the other side, m.
TOLERANCE = 1e-3
HALF_WIDTH = 1.75
LIGHTS = {1: 1.0, 4: 1.0, 7: 1.0, 2: 191 / 255, 5: 191 / 255, 8: 191 / 255, 0: 127 / 255, 3: 63 / 255, 6: 63 / 255}
BOXES = {2: 85 / 255, 3: 170 / 255}


class Image:
    """Channels with a mask of the cells whose content depends on rounding."""

    def __init__(self, raster: Raster):
        self.raster = raster
        self.values = np.zeros(raster.image_shape)
        self.uncertain = np.zeros(raster.image_shape, bool)

    def cell(self, point: np.ndarray) -> tuple[int, int] | None:
        position = self._position(point)
        row, column = (math.floor(value) for value in position)
        size = self.raster.size
        return (row, column) if 0 <= row < size and 0 <= column < size else None

    def cells_nearby(self, point: np.ndarray) -> list[tuple[int, int]]:
        """The cells of a point, of which there are several if it is next to a border."""
        rows, columns = (
            {math.floor(value - TOLERANCE), math.floor(value + TOLERANCE)} for value in self._position(point)
        )
        size = self.raster.size
        return [cell for cell in itertools.product(rows, columns) if min(cell) >= 0 and max(cell) < size]

    def draw_point(self, point: np.ndarray, channel: int, value: float, radius: float = 0.0) -> None:
        """A point, and the cells whose centers are within a radius (m) of the center of its cell."""
        cells = self.cells_nearby(point)
        own = self.cell(point)
        for cell in cells:
            for target in self._disk(cell, radius):
                if cell == own:
                    self.values[(*target, channel)] = max(self.values[(*target, channel)], value)
                if len(cells) > 1:
                    self.uncertain[(*target, channel)] = True

    def draw_box(self, center, yaw: float, size, channel: int, value: float) -> None:
        self.draw_point(center, channel, value)
        for row, column in np.ndindex(self.raster.size, self.raster.size):
            x = (row + 0.5) * self.raster.resolution - self.raster.behind - center[0]
            y = (column + 0.5 - self.raster.size / 2) * self.raster.resolution - center[1]
            along, across = abs(x * math.cos(yaw) + y * math.sin(yaw)), abs(y * math.cos(yaw) - x * math.sin(yaw))
            gap = max(along - size[0] / 2, across - size[1] / 2)
            if gap <= 0:
                self.values[row, column, channel] = max(self.values[row, column, channel], value)
            if abs(gap) < TOLERANCE:
                self.uncertain[row, column, channel] = True

    def _position(self, point: np.ndarray) -> tuple[float, float]:
        raster = self.raster
        return (point[0] + raster.behind) / raster.resolution, point[1] / raster.resolution + raster.size / 2

    def _disk(self, cell: tuple[int, int], radius: float):
        reach = math.floor(radius / self.raster.resolution)
        for row, column in itertools.product(range(-reach, reach + 1), repeat=2):
            target = cell[0] + row, cell[1] + column
            inside = min(target) >= 0 and max(target) < self.raster.size
            if inside and math.hypot(row, column) * self.raster.resolution <= radius:
                yield target


def render(raster: Raster, observation, slot: int) -> Image:
    """The image of an agent."""
    image = Image(raster)
    history = observation.history
    origin, yaw = history.xyz[-1, slot], float(history.yaw[-1, slot])

    def local(point) -> np.ndarray:
        return in_frame(point, origin, yaw)

    _draw_lanes(image, observation, local, yaw)
    if observation.info.is_sdc[slot]:
        for path, valid, on_route in zip(*_paths(observation), strict=True):
            for point in path[valid] if on_route else ():
                image.draw_point(local(point), 3, 1.0)
    signals = observation.signals
    for state, point, valid in zip(signals.state, signals.stop_point, signals.valid, strict=True):
        if valid:
            image.draw_point(local(point), 4, LIGHTS[int(state)], HALF_WIDTH)
    for index in range(raster.num_history + 1):
        step = len(history.valid) - 1 - index * raster.history_stride
        for agent in np.flatnonzero(history.valid[step]):
            value = BOXES.get(int(observation.info.type[agent]), 1.0)
            heading = float(history.yaw[step, agent]) - yaw
            image.draw_box(local(history.xyz[step, agent]), heading, observation.info.size[agent], 5 + index, value)
    return image


def _paths(observation):
    routes = observation.routes
    on_route = routes.on_route & routes.valid.any(axis=-1)
    return routes.xyz, routes.valid, on_route if on_route.any() else np.ones_like(on_route)


def _draw_lanes(image: Image, observation, local, yaw: float) -> None:
    lanes, count = observation.lanes, image.raster.points_per_segment
    sums: dict = {}
    for chunk, column in np.argwhere(np.asarray(lanes.valid)):
        if observation.roadmap.feature_type[lanes.feature[chunk, column]] not in (0, 1, 2):
            continue
        ends = np.asarray(lanes.endpoints[chunk, :, column], float)
        step = ends[3:] - ends[:3]
        heading = math.atan2(step[1], step[0]) - yaw
        for index in range(count):
            point = local(ends[:3] + (index + 0.5) / count * step)
            image.draw_point(point, 0, 1.0, HALF_WIDTH)
            near = image.cells_nearby(point)
            if cell := image.cell(point):
                sums.setdefault(cell, []).append((math.cos(heading), math.sin(heading)))
            for cell in near if len(near) > 1 else ():
                image.uncertain[(*cell, slice(1, 3))] = True
    for cell, directions in sums.items():
        image.values[(*cell, slice(1, 3))] = np.mean(directions, axis=0)
