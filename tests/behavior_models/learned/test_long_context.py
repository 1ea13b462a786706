"""Beds of long context: optima by hand and by sampling, needles, fits, and networks that learn tiny versions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.long_context.evaluation import fit_power_law, is_first, log_bins, recall_rates
from behavior_models.long_context.habit_bed import HabitBed, draw_needles
from behavior_models.long_context.recall_network import RecallModel
from behavior_models.long_context.region_bed import RegionBed, mutual_information
from behavior_models.long_context.training import BedTrainingConfig, train
from behavior_models.networks.mixture_of_experts import ExpertConfig
from behavior_models.networks.transformer import TransformerModel
from behavior_models.networks.transformer_config import TransformerConfig
from examples.reproductions import gemini_1_5, gemma

draw = jax.jit(HabitBed.draw, static_argnums=(0, 2, 3))
TINY = HabitBed(num_situations=4, num_maneuvers=3, exponent=0.0)
SMALL = TransformerConfig(32, 2, 32, 2, 16, 1, 3)


def test_optimum():
    # Two situations of equal probability: new with probability 1, 1/2, 1/4.
    two = HabitBed(num_situations=2, exponent=0.0)
    np.testing.assert_allclose(two.optimum(3), np.log(16) * np.array([1, 0.5, 0.25]))
    assert HabitBed().optimum(1)[0] == pytest.approx(2.773, abs=1e-3)
    assert HabitBed().optimum(128).mean() == pytest.approx(0.303, abs=1e-3)
    histories = draw(HabitBed(), jax.random.key(0), 2000, 16)
    new = np.asarray(jax.vmap(lambda own: is_first(own, 64))(histories.situation)).mean(axis=0)
    np.testing.assert_allclose(new * np.log(16), HabitBed().optimum(16), atol=0.12)


def test_fit_of_power_laws():
    x = np.geomspace(4, 500, 30)
    law = fit_power_law(x, 3 * x**-0.5 + 0.2)
    assert (law.scale, law.exponent, law.offset) == pytest.approx((3, -0.5, 0.2), abs=1e-3)
    # The value of the specification, 64 situations and 512 records.
    law = fit_power_law(*log_bins(HabitBed().optimum(512)))
    assert law.exponent == pytest.approx(-0.49, abs=0.03) and law.r_squared > 0.999


def test_maneuvers_repeat():
    histories = jax.device_get(draw(HabitBed(), jax.random.key(1), 8, 64))
    redrawn = jax.device_get(draw(HabitBed(redraw=0.1), jax.random.key(1), 64, 64))
    others = jax.device_get(draw(HabitBed(is_shuffled=True), jax.random.key(1), 8, 64))

    def repeated(own) -> float:
        """Share of records with the maneuver of the last record of the same situation."""
        same = []
        for situations, maneuvers in zip(own.situation, own.maneuver, strict=True):
            last = {}
            for situation, maneuver in zip(situations, maneuvers, strict=True):
                same += [last[situation] == maneuver] if situation in last else []
                last[situation] = maneuver
        return float(np.mean(same))

    assert repeated(histories) == 1.0
    # A redrawn response is another one with probability 15 / 16.
    assert repeated(redrawn) == pytest.approx(1 - 0.1 * 15 / 16, abs=0.02)
    assert repeated(others) == pytest.approx(1 / 16, abs=0.05)


def test_needles():
    make = jax.jit(draw_needles, static_argnums=(0, 2, 3))
    records = np.array([[3, 3], [5, 9], [12, 12]], np.int32)
    needles = jax.device_get(make(HabitBed(), jax.random.key(2), 5, 12, records))
    for row in range(5):
        situations, maneuvers = needles.histories.situation[row], needles.histories.maneuver[row]
        once, twice, absent = needles.query[row]
        assert np.flatnonzero(situations == once).tolist() == [3]
        assert np.flatnonzero(situations == twice).tolist() == [5, 9]
        assert absent not in situations
        assert maneuvers[3] == needles.last[row, 0]
        assert maneuvers[[5, 9]].tolist() == [needles.first[row, 1], needles.last[row, 1]]
    assert np.all(needles.first != needles.last)


def trained(bed: HabitBed):
    model = RecallModel(SMALL, num_situations=4)

    def loss(params, histories):
        nll = jnp.mean(model.nll(params, histories))
        return nll, {"nll": nll}

    config = BedTrainingConfig(num_steps=200, learning_rate=1e-2, num_warmup_steps=20, num_chunk_steps=100)
    losses = []
    params = train(
        model.init,
        lambda key: bed.draw(key, 16, 12),
        loss,
        jax.random.key(0),
        config,
        lambda _, scalars: losses.append(scalars["nll"]),
    )
    return model, params, losses[-1]


def test_recall_is_learned():
    model, params, loss = trained(TINY)
    assert loss < TINY.optimum(12).mean() + 0.05
    depths = ((0.1, 0.1), (0.5, 0.5))
    rates, _ = recall_rates(model, TINY, params, jax.random.key(1), 64, 24, depths)
    assert min(rates) > 0.95
    # Controls: situations that do not occur, and a network that is not trained.
    absent, _ = recall_rates(model, TINY, params, jax.random.key(1), 64, 24, ((2.0, 2.0),) * 2)
    assert max(absent) < 0.6
    none, _ = recall_rates(model, TINY, model.init(jax.random.key(0)), jax.random.key(1), 64, 24, depths)
    assert max(none) < 0.6


def test_recall_by_blocks_equals_the_whole_sequence():
    model = RecallModel(SMALL, num_situations=4)
    params = model.init(jax.random.key(4))
    histories = draw(TINY, jax.random.key(3), 2, 9)
    past = jax.tree.map(lambda leaf: leaf[:, :-1], histories)

    @jax.jit
    def both(params):
        network = model.network(params)
        return network(histories)[:, -1:], network.recall(past, histories.situation[:, -1:], 4)

    expected, found = both(params)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_regions():
    bed = RegionBed()
    assert bed.entropy == pytest.approx(0.729, abs=1e-3)
    tokens = np.asarray(jax.jit(RegionBed.draw, static_argnums=(0, 2))(bed, jax.random.key(0), 2000))
    assert tokens.shape == (2000, 25) and tokens[:, 0].min() == 64 and tokens[:, 1:].max() == 63
    # The most frequent successor in a region has the probability .9 + .1 / 64.
    counts = np.zeros((16, 64, 64))
    np.add.at(counts, (np.repeat(tokens[:, :1] - 64, 23, axis=1), tokens[:, 1:-1], tokens[:, 2:]), 1)
    assert counts.max(axis=-1).sum() / counts.sum() == pytest.approx(0.9016, abs=0.01)
    model = TransformerModel(TransformerConfig(16, 1, 8, 1, 8, 1, 80, experts=ExpertConfig(4)))
    total, (nll, statistics) = jax.jit(lambda params: bed.loss(model, params, tokens[:8]))(
        model.init(jax.random.key(0))
    )
    assert float(nll) == pytest.approx(np.log(64), abs=1.0)
    expected = 0.01 * statistics[0].balance_loss + 0.001 * statistics[0].z_loss
    assert float(total - nll) == pytest.approx(float(expected), rel=1e-3)


def test_mutual_information():
    first = np.array([0, 0, 1, 1])
    assert mutual_information(first, first) == pytest.approx(np.log(2))
    assert mutual_information(first, np.array([0, 1, 0, 1])) == pytest.approx(0)


def part(recall: float, excess: float) -> dict:
    """Results of a network that satisfy the criteria for recall of 1 and excess of 0."""
    row = {"excess": [excess] * 256, "recall": [recall] * 8, "last": [0.5] * 8, "first": [0.5] * 8}
    return {"256": row, "512": row, "nll of other drivers": 3.5, "no needle": [1 / 16] * 8}


def failures(results: dict) -> list[str]:
    return [each.name for each in gemini_1_5.find_criteria(results) if not each.passed]


def test_criteria():
    assert failures({"none, 1500, 0": part(1.0, 0.0), "sharp, 102400": [1.0, 0.96]}) == []
    # The worst seed counts.
    names = failures({"none, 1500, 0": part(1.0, 0.0), "none, 1500, 1": part(0.9, 0.1)})
    assert [name[:2] for name in names] == ["L1", "L1", "L2", "L2"]
    assert len(failures({"sharp, 102400": [0.9, 0.94], "sharp, 4096": [np.nan]})) == 2
    # The last record is returned half of the time.
    assert len(failures({"override, 0": part(1.0, 0.0)})) == 2


def mixture(nll: float, cv: float) -> dict:
    information = [[0.5, 0.3, 0.4]] * 2
    return {"nll": [nll] * 3, "cv": [[cv] * 3] * 2, "information region": information, "information token": information}


def test_criteria_of_mixtures():
    names = {"dense, equal active": (0.865, 0.0), "experts": (0.82, 0.1), "dense, equal total": (0.8, 0.0)}
    names |= {"collapsed": (0.84, 1.0), "collapsed, no balance loss": (0.87, 3**0.5)}
    results = {f"mixture, {name}": mixture(*values) for name, values in names.items()}
    assert failures(results) == []
    results["mixture, collapsed"] = mixture(0.87, 3**0.5)
    assert len(failures(results)) == 2


@pytest.mark.slow
def test_quick_runs(tmp_path):
    gemini_1_5.main(gemini_1_5.Study(tmp_path / "long", quick=True))
    report = json.loads((tmp_path / "long" / "report.json").read_text())
    assert len(report["criteria"]) == 9
    # Parts are used again.
    (tmp_path / "long" / "sharp_512.json").write_text(json.dumps({"result": [1.0] * 5}))
    gemini_1_5.main(gemini_1_5.Study(tmp_path / "long", quick=True))
    report = json.loads((tmp_path / "long" / "report.json").read_text())
    assert [each["value"] for each in report["criteria"] if "L5" in each["name"]] == [1.0]
    gemma.main(gemma.Study(tmp_path / "gemma", quick=True))
    report = json.loads((tmp_path / "gemma" / "report.json").read_text())
    assert all(each["passed"] for each in report["criteria"] if each["name"][:2] in ("G0", "G2"))
