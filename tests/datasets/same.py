"""Comparison of scenes."""

import dataclasses

import numpy as np

from waymax_sim.datasets.scene import RawScene


def assert_same(found: RawScene, expected: RawScene, ignore: tuple[str, ...] = ()) -> None:
    """All fields are equal, except for values of invalid states and `missing_fields`, a property of the format."""
    for field in dataclasses.fields(RawScene):
        if field.name in ("missing_fields", *ignore):
            continue
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("xyz", "yaw", "velocity", "size"):
            a, b = a[expected.valid], b[expected.valid]
        if isinstance(b, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=field.name)
        else:
            assert a == b, field.name


def in_order(raw: RawScene) -> RawScene:
    """The same scene with lights in the order of lane ids, and sorted links, as readers of WOMD return them."""
    order = np.argsort(raw.signal_lane_id)
    return dataclasses.replace(
        raw,
        links=np.unique(raw.links, axis=0),
        signal_lane_id=raw.signal_lane_id[order],
        signal_state=raw.signal_state[:, order],
        signal_stop_point=raw.signal_stop_point[:, order],
        signal_valid=raw.signal_valid[:, order],
    )
