"""Learning curves: what is drawn for a log."""

from matplotlib.figure import Figure

from waymax_sim.viz.learning_curves import draw_learning_curves, draw_panel

LINES = [
    {"step": 10, "goal": 0.2, "goal/ci95": 0.1, "loss": 1.0},
    {"step": 20, "goal": 0.4, "goal/ci95": 0.1, "loss": 0.5, "eval/goal": 0.3},
]
BASELINES = {"idm": {"goal": 0.7, "collision": 0.1}, "stationary": {"goal": 0.0, "collision": 0.0}}


def test_a_panel_has_curves_intervals_and_baselines():
    axes = Figure().subplots()
    draw_panel(axes, LINES, "goal", BASELINES)
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
    assert curves["training"] == ([10, 20], [0.2, 0.4]) and curves["held-out"] == ([20], [0.3])
    assert curves["idm"][1] == [0.7, 0.7] and curves["stationary"][1] == [0.0, 0.0]
    (band,) = axes.collections
    (low, high) = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (round(low, 6), round(high, 6)) == (0.1, 0.5)


def test_logs_are_drawn_with_and_without_content(tmp_path):
    for name, lines in (("full", LINES), ("empty", [])):
        draw_learning_curves(lines, BASELINES, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
