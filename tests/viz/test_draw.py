"""Images of scenes: artists are counted and inspected; pixels are not compared with stored images."""

import itertools
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from tests.data import recorded
from tests.scenes import raw_scene, scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.roadmap import CROSSWALK, DRIVEWAY, SPEED_BUMP, STOP_SIGN, kind_name
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.geometry import box_corners
from waymax_sim.pytree import stack, tree_index
from waymax_sim.viz import draw, style, to_image
from waymax_sim.viz.road import MAX_PIECE_POINTS, split_features

SQUARE = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [3.0, 3.0, 0.0], [0.0, 3.0, 0.0]])


def artists(figure: Figure, gid: str) -> list:
    return [artist for artist in figure.axes[0].collections if artist.get_gid() == gid]


def num_drawn(figure: Figure, gid: str) -> int:
    """Lines, polygons or markers of a kind."""
    return sum(max(len(artist.get_paths()), len(artist.get_offsets())) for artist in artists(figure, gid))


def mean_x(artist) -> list[float]:
    """Mean x of each path of an artist."""
    return [path.vertices[:, 0].mean() for path in artist.get_paths()]


def legend(figure: Figure) -> dict[str, tuple]:
    """Edge colors by label."""
    handles = figure.axes[0].get_legend().get_patches()
    texts = figure.axes[0].get_legend().get_texts()
    return {text.get_text(): handle.get_edgecolor() for text, handle in zip(texts, handles, strict=True)}


def features(*typed: tuple[int, np.ndarray]) -> dict:
    """Map fields of a raw scene from pairs of a type and points."""
    return {
        "point_xyz": np.concatenate([points for _, points in typed]),
        "point_feature": np.repeat(np.arange(len(typed)), [len(points) for _, points in typed]),
        "feature_id": np.arange(len(typed)) + 10,
        "feature_type": np.array([kind for kind, _ in typed]),
        "speed_limit": np.zeros(len(typed)),
    }


def line(start: tuple, end: tuple, num_points: int = 50) -> np.ndarray:
    return np.linspace(start, end, num_points)


def assert_holds_the_map(scenario: Scenario) -> None:
    figure = draw(scenario, center="scene")
    kinds = [kind_name(kind) for kind in scenario.roadmap.feature_type.tolist() if kind >= 0]
    for kind in set(kinds):
        assert num_drawn(figure, kind) == kinds.count(kind), kind
    assert num_drawn(figure, "asphalt") == kinds.count("lane")
    assert num_drawn(figure, "agents") == np.count_nonzero(scenario.log.valid[int(scenario.current_step)])


def test_a_synthetic_scene_is_drawn_in_full():
    assert_holds_the_map(to_scenario(synthetic_scene(0, 1)))


def test_a_recorded_scene_is_drawn_in_full():
    assert_holds_the_map(load(str(recorded("womd/scenario_637f20cafde22ff8.tfrecord")))[0])


def test_asphalt_is_as_wide_as_lanes_in_a_grid_that_is_laid_out_later():
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax in axes:
        draw(scene(**features((1, SQUARE))), center=(0.0, 0.0), radius=20.0, ax=ax)
    to_image(figure)
    for ax in axes:
        (asphalt,) = [artist for artist in ax.collections if artist.get_gid() == "asphalt"]
        points_per_meter = ax.bbox.width / 40.0 * 72 / figure.dpi
        np.testing.assert_allclose(asphalt.get_linewidths(), style.LANE_WIDTH[1] * points_per_meter)


def test_every_kind_of_feature_is_drawn_once():
    kinds = [1, 3, 7, 15, 16, STOP_SIGN, CROSSWALK, SPEED_BUMP, DRIVEWAY]
    figure = draw(scene(**features(*((kind, SQUARE[: 1 if kind == STOP_SIGN else 4]) for kind in kinds))))
    for name in ("road_line", "stop_sign", "crosswalk", "speed_bump", "driveway"):
        assert num_drawn(figure, name) == 1, name
    for name in ("lane", "asphalt", "road_edge"):
        assert num_drawn(figure, name) == 2, name
    edges = {tuple(artist.get_colors()[0]) for artist in artists(figure, "road_edge")}
    assert edges == {to_rgba(style.LINE_STYLES[15].color), to_rgba(style.LINE_STYLES[16].color)}


@pytest.mark.parametrize(
    ("kind", "color", "is_broken", "is_double"),
    [
        (6, style.WHITE_COLOR, True, False),
        (7, style.WHITE_COLOR, False, False),
        (8, style.WHITE_COLOR, False, True),
        (9, style.YELLOW_COLOR, True, False),
        (10, style.YELLOW_COLOR, True, True),
        (11, style.YELLOW_COLOR, False, False),
        (12, style.YELLOW_COLOR, False, True),
        (13, style.YELLOW_COLOR, True, True),
    ],
)
def test_road_lines_look_as_they_are_painted(kind, color, is_broken, is_double):
    single = artists(draw(scene(**features((7, SQUARE)))), "road_line")[0].get_linewidth()[0]
    (lines,) = artists(draw(scene(**features((kind, SQUARE)))), "road_line")
    assert tuple(lines.get_colors()[0]) == to_rgba(color)
    assert (lines.get_linestyle()[0][1] is not None) == is_broken
    assert (lines.get_linewidth()[0] > 1.5 * single) == is_double


def test_features_out_of_view_are_left_out():
    near, far = line((0, 0, 0), (10, 0, 0)), line((500, 0, 0), (600, 0, 0))
    crossing = line((-900, 5, 0), (900, 5, 0), 3)
    scenario = scene(**features((2, near), (2, far), (2, crossing)))
    assert num_drawn(draw(scenario, radius=50.0), "lane") == 2
    assert num_drawn(draw(scenario, center="scene"), "lane") == 3


def test_lights_show_the_state_of_the_step():
    states = np.zeros((21, 9), int)
    states[7] = np.arange(9)
    valid = np.ones((21, 9), bool)
    valid[7, 6] = False
    stop = np.zeros((21, 9, 3)) + np.arange(9)[:, None]
    lit = {"signal_lane_id": np.arange(9), "signal_state": states, "signal_stop_point": stop, "signal_valid": valid}
    scenario = scene(**lit)
    figure = draw(scenario, step=7)
    assert num_drawn(figure, "light go") == 0
    looks = {}
    for name in ("unknown", "arrow_stop", "arrow_caution", "arrow_go", "stop", "caution", "flashing_stop"):
        (lights,) = artists(figure, f"light {name}")
        assert len(lights.get_offsets()) == 1
        color = lights.get_facecolor() if len(lights.get_facecolor()) else lights.get_edgecolor()
        looks[name] = (tuple(color[0]), len(lights.get_facecolor()) > 0, len(lights.get_paths()[0].vertices))
    assert looks["stop"][:2] == looks["arrow_stop"][:2] == (to_rgba(style.STOP_COLOR), True)
    assert looks["caution"][0] == looks["arrow_caution"][0] == to_rgba(style.CAUTION_COLOR)
    assert looks["arrow_go"][0] == to_rgba(style.GO_COLOR)
    assert looks["unknown"][0] == to_rgba(style.UNKNOWN_COLOR)
    assert looks["flashing_stop"][:2] == (to_rgba(style.STOP_COLOR), False)
    assert looks["arrow_stop"][2] != looks["stop"][2], "arrows have a shape of their own"
    assert num_drawn(draw(scenario, step=6), "light unknown") == 9


def test_boxes_are_where_the_agents_are():
    num_agents = 5
    rng = np.random.default_rng(0)
    valid = np.ones((21, num_agents), bool)
    valid[5, 2] = False
    scenario = scene(num_agents=num_agents, yaw=rng.uniform(-3, 3, (21, num_agents)), valid=valid)
    (boxes,) = artists(draw(scenario), "agents")
    now = tree_index(scenario.log, 5)
    expected = box_corners(now.xyz[:, :2], now.yaw, scenario.agents.size[:, :2])[np.array([0, 1, 3, 4])]
    drawn = np.stack([path.vertices[:4] for path in boxes.get_paths()])
    np.testing.assert_allclose(drawn, expected, atol=1e-4)


def test_noses_point_ahead():
    yaw = np.full((21, 3), 2.0)
    (noses,) = artists(draw(scene(yaw=yaw)), "noses")
    for path in noses.get_paths():
        ahead = path.vertices[1] - path.vertices[0]
        np.testing.assert_allclose(np.arctan2(ahead[1], ahead[0]), 2.0, atol=1e-5)


def test_colors_show_types_and_roles():
    types = np.array([VEHICLE, VEHICLE, PEDESTRIAN, CYCLIST, VEHICLE])
    scenario = scene(num_agents=5, agent_type=types)
    (plain,) = artists(draw(scenario), "agents")
    expected = [style.SDC_COLOR, *(style.AGENT_COLORS[kind] for kind in types[1:].tolist())]
    np.testing.assert_allclose(plain.get_facecolor(), [to_rgba(color) for color in expected])
    (roles,) = artists(draw(scenario, controlled=np.arange(5) == 1), "agents")
    np.testing.assert_allclose(roles.get_facecolor()[:2], plain.get_facecolor()[:2])
    assert (roles.get_facecolor()[2:, :3].mean(axis=1) > plain.get_facecolor()[2:, :3].mean(axis=1) + 0.1).all()
    assert min(roles.get_linewidth()[:2]) > max(roles.get_linewidth()[2:])


def test_flagged_agents_are_outlined_and_listed():
    valid = np.ones((21, 8), bool)
    valid[5, 3] = False
    flags = {
        "overlap": np.isin(np.arange(8), [1, 3]),
        "offroad": np.arange(8) >= 1,
        "wrong_way": jnp.arange(8) == 2,
        "kinematics": np.zeros(8, bool),
    }
    figure = draw(scene(num_agents=8, valid=valid), flags=flags)
    labels = legend(figure)
    assert labels["overlap: 101"] == to_rgba(style.FLAG_COLORS["overlap"])
    assert labels["offroad: 101, 102, 104, 105 +2"] == to_rgba(style.FLAG_COLORS["offroad"])
    assert labels["wrong_way: 102"] == to_rgba(style.OTHER_FLAG_COLOR)
    assert set(labels) - {"overlap: 101", "offroad: 101, 102, 104, 105 +2", "wrong_way: 102"} == {"sdc", "vehicle"}
    assert [num_drawn(figure, f"flag {name}") for name in flags] == [1, 6, 1, 0]


def test_the_view():
    scenario = scene()
    limits = {
        "sdc": (0.0, 0.0),
        1: (-20.0, 0.0),
        (7.0, -3.0): (7.0, -3.0),
    }
    for center, (x, y) in limits.items():
        ax = draw(scenario, center=center, radius=30.0).axes[0]
        np.testing.assert_allclose([*ax.get_xlim(), *ax.get_ylim()], [x - 30, x + 30, y - 30, y + 30], atol=1e-3)
        assert ax.get_aspect() == 1.0
    ax = draw(scenario, center="scene").axes[0]
    assert ax.get_xlim()[0] < -100.0 and ax.get_xlim()[1] > 100.0
    np.testing.assert_allclose(np.diff(ax.get_xlim()), np.diff(ax.get_ylim()), rtol=1e-6)


def test_the_scale_bar_is_as_long_as_it_says():
    for radius in (3.0, 25.0, 60.0, 400.0):
        ax = draw(scene(), radius=radius).axes[0]
        (bar,) = ax.lines
        (label,) = [text.get_text() for text in ax.texts if text.get_text().endswith(" m")]
        np.testing.assert_allclose(np.ptp(bar.get_xdata()) * 2 * radius, float(label.split()[0]))


def test_a_bridge_covers_the_road_below():
    low, high = line((-50, 0, 0), (50, 0, 0)), line((0, -50, 5.5), (0, 50, 5.5))
    xyz = np.zeros((21, 2, 3))
    xyz[:, 0, 2], xyz[:, 1, 2] = 0.75, 6.25
    figure = draw(scene(num_agents=2, xyz=xyz, **features((2, low), (2, high), (7, low), (7, high))))
    order = {gid: [a.get_zorder() for a in artists(figure, gid)] for gid in ("asphalt", "road_line", "agents")}
    for pair in order.values():
        assert len(pair) == 2 and pair == sorted(pair)
    asphalt, lines, agents = order.values()
    bottom_up = [asphalt[0], lines[0], asphalt[1], agents[0], lines[1], agents[1]]
    assert bottom_up == sorted(set(bottom_up))


def test_agents_are_above_a_sloping_road():
    along = line((-200, 0, -20), (200, 0, 20), 801)
    xyz = np.zeros((21, 9, 3))
    xyz[..., 0] = np.linspace(-100, 100, 9)
    xyz[..., 2] = xyz[..., 0] / 10 + 0.75
    figure = draw(scene(num_agents=9, xyz=xyz, **features((7, along))), center="scene")
    lines = [(x, artist.get_zorder()) for artist in artists(figure, "road_line") for x in mean_x(artist)]
    boxes = [(x, artist.get_zorder()) for artist in artists(figure, "agents") for x in mean_x(artist)]
    assert len(boxes) == 9
    for x, order in boxes:
        nearest = min(lines, key=lambda item: abs(item[0] - x))
        assert nearest[1] < order


def test_only_climbing_lines_are_split_and_their_pieces_share_endpoints():
    climbing, flat = line((0, 0, 0), (100, 0, 10), 200), line((0, 5, 1.9), (100, 5, 2.1), 200)
    area = SQUARE * [1.0, 1.0, 0.0] + [[0, 0, 0], [0, 0, 9], [0, 0, 9], [0, 0, 0]]
    pieces = split_features(scene(**features((2, climbing), (2, flat), (CROSSWALK, area))).roadmap)
    assert (pieces.type == 2).sum() == -(-200 // MAX_PIECE_POINTS) + 1
    assert (pieces.type == CROSSWALK).sum() == 1
    parts = pieces.lines(np.arange(-(-200 // MAX_PIECE_POINTS)))
    for one, other in itertools.pairwise(parts):
        np.testing.assert_array_equal(one[-1], other[0])
    assert sum(len(part) for part in parts) == 200 + len(parts) - 1


def test_past_fades_and_future_is_dashed():
    figure = draw(scene())
    (past,) = artists(figure, "past")
    assert len(past.get_paths()) == 3 * 5
    assert (np.diff(past.get_colors()[:5, 3]) > 0).all()
    (future,) = artists(figure, "future")
    assert [len(path.vertices) for path in future.get_paths()] == [16] * 3
    assert future.get_linestyle()[0][1] is not None


def test_trajectories_have_gaps_where_an_agent_is_not_valid():
    valid = np.ones((21, 3), bool)
    valid[3, 1] = valid[[8, 12], 1] = False
    valid[5, 2] = False
    figure = draw(scene(valid=valid))
    assert num_drawn(figure, "past") == 5 + 3
    assert sorted(len(path.vertices) for path in artists(figure, "future")[0].get_paths()) == [3, 3, 8, 16]


def test_trajectories_can_be_given_or_left_out():
    scenario = scene()
    none = tree_index(scenario.log, slice(0, 0))
    figure = draw(scenario, past=none, future=none)
    assert not artists(figure, "past") and not artists(figure, "future")
    figure = draw(scenario, past=tree_index(scenario.log, slice(0, 3)), future=tree_index(scenario.log, slice(5, 9)))
    assert num_drawn(figure, "past") == 3 * 2
    assert {len(path.vertices) for path in artists(figure, "future")[0].get_paths()} == {4}


def test_parked_agents_have_no_trajectory():
    xyz = raw_scene().xyz
    xyz[:, 1] = xyz[5, 1] + np.random.default_rng(0).uniform(-0.005, 0.005, (21, 3))
    assert num_drawn(draw(scene(xyz=xyz)), "future") == 2


def test_agents_can_be_simulated_ones():
    scenario = scene()
    now = tree_index(scenario.log, 5)
    moved = replace(now, xyz=jnp.asarray(now.xyz) + jnp.array([[0.0, 50.0, 0.0]]))
    figure = draw(scenario, moved)
    (boxes,) = artists(figure, "agents")
    np.testing.assert_allclose(boxes.get_paths()[0].vertices[:4, 1].mean(), 50.0, atol=1e-4)
    np.testing.assert_allclose(figure.axes[0].get_ylim(), [-10.0, 110.0], atol=1e-3)


def test_padding_and_the_kind_of_array_change_nothing():
    exact, padded = (to_scenario(raw_scene(), pad_to_bucket=pad_to_bucket) for pad_to_bucket in (False, True))
    flags = {"overlap": np.arange(exact.num_agents) == 1}
    padded_flags = {"overlap": jnp.arange(padded.num_agents) == 1}
    image = to_image(draw(exact, flags=flags, size=4.0))
    assert (image == to_image(draw(padded, flags=padded_flags, size=4.0))).all()
    assert (image == to_image(draw(jax.device_put(padded), flags=padded_flags, size=4.0))).all()


NO_MAP = {
    "point_xyz": np.zeros((0, 3)),
    "point_feature": np.zeros(0, int),
    "feature_id": np.zeros(0, int),
    "feature_type": np.zeros(0, int),
    "speed_limit": np.zeros(0),
}
NO_LIGHTS = {
    "signal_lane_id": np.zeros(0, int),
    "signal_state": np.zeros((21, 0), int),
    "signal_stop_point": np.zeros((21, 0, 3)),
    "signal_valid": np.zeros((21, 0), bool),
}
NO_VALID_AGENTS = {"valid": np.zeros((21, 3), bool)}


@pytest.mark.parametrize("pad_to_bucket", [False, True])
@pytest.mark.parametrize("center", ["sdc", "scene", 1])
@pytest.mark.parametrize(
    "changes",
    [NO_MAP, NO_LIGHTS, NO_VALID_AGENTS, {"sdc_index": -1}, NO_MAP | NO_LIGHTS | NO_VALID_AGENTS | {"sdc_index": -1}],
    ids=["no map", "no lights", "no valid agents", "no sdc", "nothing"],
)
def test_incomplete_scenes_are_drawn(changes, center, pad_to_bucket):
    figure = draw(to_scenario(raw_scene(**changes), pad_to_bucket=pad_to_bucket), center=center, size=2.0)
    assert num_drawn(figure, "agents") == (0 if "valid" in changes else 3)
    assert (figure.axes[0].get_legend() is None) == ("valid" in changes)
    assert to_image(figure).shape == (200, 200, 3)


def test_a_scene_without_agents_is_drawn():
    assert num_drawn(draw(scene(num_agents=0, sdc_index=-1)), "agents") == 0


def test_titles():
    def texts(**options):
        return [text.get_text() for text in draw(scene(), **options).axes[0].texts]

    assert any("synthetic" in text and "step 7" in text and "0.7 s" in text for text in texts(step=7))
    assert "my $own$ title" in texts(title="my $own$ title")
    assert len(texts(title="")) == 1, "only the scale bar has a text"


def test_it_draws_on_axes_of_the_caller():
    figure = Figure(figsize=(6, 3))
    left, right = figure.subplots(1, 2)
    assert draw(scene(), ax=right) is figure
    assert isinstance(right, Axes) and right.collections and not left.collections
    assert to_image(figure).shape == (300, 600, 3)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_pictures_are_saved(tmp_path, suffix):
    path = tmp_path / f"scene.{suffix}"
    draw(scene(), size=3.0).savefig(path)
    assert path.stat().st_size > 1000


def test_errors_name_the_problem():
    with pytest.raises(ValueError, match=r"step 21 is not one of 0\.\.20"):
        draw(scene(), step=21)
    with pytest.raises(ValueError, match="batch"):
        draw(stack([scene(), scene()]))


def test_pyplot_is_never_loaded():
    code = "import sys, waymax_sim.viz; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
