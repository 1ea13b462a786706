"""Comparison of scenes."""

import dataclasses

import numpy as np

from waymax_sim.datasets.scene import RawScene


def assert_same(found: RawScene, expected: RawScene, ignore: tuple[str, ...] = ()) -> None:
    """All fields are equal, except what states that are not valid hold."""
    for field in dataclasses.fields(RawScene):
        if field.name in ignore:
            continue
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("xyz", "yaw", "velocity", "size"):
            a, b = a[expected.valid], b[expected.valid]
        if isinstance(b, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=field.name)
        else:
            assert a == b, field.name
