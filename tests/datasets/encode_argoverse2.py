"""A small scenario of Argoverse 2."""

import pyarrow as pa
import pyarrow.parquet as pq

NUM_STEPS, OBSERVED = 6, 4


def rows(track, kind="vehicle", category=1, steps=range(NUM_STEPS), x=5.0, y=0.0):
    """Rows of one track that moves along x at 10 m/s."""
    return [
        {
            "observed": step < OBSERVED,
            "track_id": track,
            "object_type": kind,
            "object_category": category,
            "timestep": step,
            "position_x": x + step,
            "position_y": y,
            "heading": 0.25,
            "velocity_x": 10.0,
            "velocity_y": -0.5,
            "scenario_id": "abc",
            "num_timestamps": NUM_STEPS,
        }
        for step in steps
    ]


def records():
    """Five tracks: a complete one, one with a gap, the ego, and two whose ids are not integers."""
    return [
        *rows("12", category=3),
        *rows("7", "pedestrian", category=2, steps=[1, 2, 4], y=4.0),
        *rows("AV"),
        *rows("x-1", "bus", category=0, y=-4.0),
        *rows("007", "riderless_bicycle", y=100.0),
    ]


def line(*points):
    return [dict(zip("xyz", map(float, point), strict=True)) for point in points]


def lane(lane_id, center, left, right, marks=("NONE", "NONE"), kind="VEHICLE", **links):
    return {
        "id": lane_id,
        "lane_type": kind,
        "centerline": line(*center),
        "left_lane_boundary": line(*left),
        "right_lane_boundary": line(*right),
        "left_lane_mark_type": marks[0],
        "right_lane_mark_type": marks[1],
        "predecessors": [],
        "successors": [],
        "left_neighbor_id": None,
        "right_neighbor_id": None,
    } | links


def archive():
    """A road along x from 0 to 40, split at 20, with a bike lane on its right, an oncoming lane on its left; a yard."""
    up = [(20, 2, 12), (40, 2, 14)]
    lanes = [
        # Heights of the boundaries are 10 to 12 and 20 to 22, with points at other positions.
        lane(
            1,
            [(0, 0, 0), (5, 0, 0), (20, 0, 0)],
            [(0, 2, 10), (20, 2, 12)],
            [(0, -2, 20), (10, -2, 21), (20, -2, 22)],
            ("DOUBLE_SOLID_YELLOW", "NONE"),
            successors=[2, 99],
        ),
        lane(
            2,
            [(20, 0, 0), (40, 0, 0)],
            up,
            [(20, -2, 12), (40, -2, 14)],
            ("SOLID_YELLOW", "DASHED_WHITE"),
            predecessors=[1],
            left_neighbor_id=3,
            right_neighbor_id=4,
        ),
        lane(
            3,
            [(40, 4, 0), (20, 4, 0)],
            up[::-1],
            [(40, 5, 14), (20, 5, 12)],
            ("SOLID_YELLOW", "SOLID_BLUE"),
            "BUS",
            left_neighbor_id=2,
        ),
        lane(
            4,
            [(20, -3, 0), (40, -3, 0)],
            [(20, -2, 12), (40, -2, 14)],
            [(20, -4, 12), (40, -4, 14)],
            ("DASHED_WHITE", "NONE"),
            "BIKE",
            left_neighbor_id=2,
        ),
    ]
    rings = [
        [(0, -5, 9), (0, 5, 9), (20, 5, 9), (20, -5, 9)],  # clockwise
        [(20, -5, 9), (40, -5, 9), (40, 5, 9), (20, 5, 9)],
        [(0, 20, 9), (3, 20, 9), (3, 23, 9), (0, 23, 9)],
    ]
    return {
        "lane_segments": {str(each["id"]): each for each in lanes},
        "drivable_areas": {str(i): {"id": i, "area_boundary": line(*ring)} for i, ring in enumerate(rings)},
        "pedestrian_crossings": {
            "8": {"id": 8, "edge1": line((10, -5, 1), (10, 5, 1)), "edge2": line((13, -5, 1), (13, 5, 1))}
        },
    }


def table_bytes(columns, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.Table.from_pylist(columns), sink, **options)
    return sink.getvalue().to_pybytes()
