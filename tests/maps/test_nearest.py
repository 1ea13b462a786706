import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from tests.flags import fusion_emitters
from tests.programs import jit_optimized
from tests.scenes import segments
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.maps.nearest import nearest_segment, signed_distance

# With these options the distance of a segment is computed twice with different rounding for its comparison.
UNLIKE = {"xla_backend_optimization_level": 0} | fusion_emitters(False)


def _distances(edges: Segments, points):
    return signed_distance(edges, points, jnp.ones(points.shape[:-1], bool))


distances = jax.jit(_distances)
for_users, unlike_those = jit_optimized(_distances), jax.jit(_distances, compiler_options=UNLIKE)


def ask(edges: Segments, *points, how=distances) -> np.ndarray:
    """Signed distances of points (x, y) or (x, y, z)."""
    points = [(*point, 0.0)[:3] for point in points]
    value, exists = how(edges, jnp.asarray(points, jnp.float32))
    assert np.asarray(exists).all()
    return np.asarray(value)


def circle(radius: float, count: int, turn: int = 1) -> np.ndarray:
    angle = turn * np.linspace(0, 2 * np.pi, count)
    return radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)


def test_the_road_is_on_the_left():
    edge = segments([(x, 0.0) for x in np.arange(0, 10.5, 0.5)])
    np.testing.assert_allclose(ask(edge, (3.2, 1.5), (3.2, -1.5), (3.2, 0.0)), [-1.5, 1.5, 0.0], atol=1e-6)


def test_beyond_its_ends_an_open_edge_is_extended():
    edge = segments([(0, 0), (10, 0)])
    np.testing.assert_allclose(ask(edge, (13, 4), (13, -4), (-3, 4), (-3, -4), (14, 0)), [-5, 5, -5, 5, 0], atol=1e-6)


@pytest.mark.parametrize("split", [1, 3])
def test_corners(split):
    # At a left turn (convex) everything beyond the corner is outside; at a right turn (concave) it is inside.
    fine = np.linspace(0, 10, split + 1)
    left_turn = segments([*((x, 0) for x in fine), *((10, y) for y in fine[1:])])
    np.testing.assert_allclose(
        ask(left_turn, (13, -4), (9, 2), (12, -0.1), (10.1, -2)), [5, -1, 2.0025, 2.0025], atol=1e-3
    )
    right_turn = segments([*((x, 0) for x in fine), *((10, -y) for y in fine[1:])])
    np.testing.assert_allclose(
        ask(right_turn, (13, 4), (9, -2), (12, 0.1), (10.1, 2)), [-5, 1, -2.0025, -2.0025], atol=1e-3
    )


def test_sharp_corners_use_both_segments():
    # A wedge of 20 degrees: beyond its tip the nearer side alone would call some points road.
    back = (10 - 10 * np.cos(0.35), 10 * np.sin(0.35))
    outside = [(12, 0.5), (12, -0.5), (10.5, 1.0), (10.1, -0.5), (12, 0)]
    wedge = segments([(0, 0), (10, 0), back])
    assert (ask(wedge, *outside) > 0).all() and ask(wedge, (9, 0.1))[0] < 0
    mirrored = segments([back, (10, 0), (0, 0)])
    assert (ask(mirrored, *outside) < 0).all() and ask(mirrored, (9, 0.1))[0] > 0


def test_closed_loops_wrap():
    # The tip of a sharp wedge is where the loop closes.
    wedge = [(10, 0), (0, 3.6), (0, 0), (10, 0)]
    outside = [(12, 0.5), (12, -0.5), (10.1, 0.5), (11, 0)]
    assert (ask(segments(wedge), *outside) > 0).all()
    assert (ask(segments(wedge[::-1]), *outside) < 0).all()
    near_loop = [*wedge[:-1], (9.5, 0.0)]
    np.testing.assert_array_equal(np.sign(ask(segments(near_loop), (12, 0.5), (5, 1))), [1, -1])


def test_islands_and_basins():
    inside, outside = (3.0, 1.0), (12.0, -2.0)
    # A loop that turns left has the road inside; one that turns right is an island.
    np.testing.assert_array_equal(np.sign(ask(segments(circle(10, 41)), inside, outside)), [-1, 1])
    np.testing.assert_array_equal(np.sign(ask(segments(circle(10, 41, -1)), inside, outside)), [1, -1])


def test_a_bridge_uses_its_own_edges():
    ground = [(0, 0, 0), (100, 0, 0)]
    bridge = [(50, 20, 6), (50, -20, 6)]
    edges = segments(ground, bridge)
    # 1 m left of the ground edge, 2 m right of the bridge edge, in plan.
    value = ask(edges, (48, 1, 0), (48, 1, 6))
    np.testing.assert_allclose(value, [-1, 2], atol=1e-5)


def test_ties_go_to_the_lower_index():
    edges = segments([(0, 1), (10, 1)], [(10, -1), (0, -1)])
    index, _ = nearest_segment(edges, jnp.asarray([[5.0, 0.0, 0.0]]), jnp.ones(1, bool))
    assert index[0] == 0
    np.testing.assert_allclose(ask(edges, (5, 0)), [1.0])


def test_maps_without_segments():
    empty = segments(np.zeros((0, 2)))
    padding = jax.tree.map(jnp.zeros_like, segments([(0, 0), (1, 0), (2, 0)]))
    for edges in (empty, padding):
        value, exists = distances(edges, jnp.ones((2, 4, 3)))
        assert value.shape == exists.shape == (2, 4)
        assert not np.asarray(exists).any() and not np.asarray(value).any()


@pytest.mark.parametrize("seed", range(4))
def test_random_maps_equal_the_oracle(seed):
    rng = np.random.default_rng(seed)
    lines = [circle(8, 9, 1) + (0, 0, 1), circle(6, 30, -1) + (25, 0, 0)]
    for _ in range(8):
        heading = rng.uniform(-3, 3) + np.cumsum(rng.normal(0, 0.8, 12))
        steps = rng.uniform(0.3, 4, (12, 1)) * np.stack([np.cos(heading), np.sin(heading), 0 * heading + 0.05], axis=-1)
        lines.append(rng.uniform((-30, -30, 0), (30, 30, 8)) + np.cumsum(steps, axis=0))
    lines = [np.float32(line).astype(float) for line in lines]
    points = np.float32(rng.uniform((-40, -40, -1), (40, 40, 9), (300, 3)))
    expected = [oracle.signed_distance(lines, point.astype(float)) for point in points]
    edges = segments(*lines)
    np.testing.assert_allclose(ask(edges, *points, how=for_users), expected, atol=2e-5)
    np.testing.assert_allclose(ask(edges, *points, how=unlike_those), expected, atol=5e-5)


def test_batched_points_equal_single_ones():
    edges = segments(circle(10, 21))
    points = jnp.asarray(np.random.default_rng(0).normal(0, 8, (3, 5, 3)), jnp.float32)
    value, _ = distances(edges, points)
    np.testing.assert_allclose(value, jax.jit(jax.vmap(jax.vmap(lambda p: distances(edges, p)[0])))(points), atol=1e-6)


def test_gradients_point_away_from_the_edge():
    edges = segments([(0, 0), (10, 0), (10, 10)])
    points = jnp.asarray([(5, 1, 0), (5, -1, 0), (5, 0, 0), (10, 0, 0), (13, -4, 0), (5, 1, 3)], jnp.float32)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(distances(edges, p)[0])))(points)
    expected = [(0, -1, 0), (0, -1, 0), (0, 0, 0), (0, 0, 0), (0.6, -0.8, 0), (0, -1, 0)]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
