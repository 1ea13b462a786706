"""Reproductions of the mechanisms of Gemini and of long horizons: statistics by hand, and quick runs."""

import json
from typing import Any

import numpy as np
import pytest

from behavior_models.scene_decoder.modality_bed import draw_situations
from behavior_models.scene_decoder.modality_tokens import SceneTokens
from examples.reproductions import gemini, gemini_common, gemini_decoding, long_horizon
from examples.reproductions.waymax_common import Criterion, effect_share


def evaluation(values, valid):
    return {"off_road/value": np.array(values, float), "off_road/valid": np.array(valid, bool)}


def test_effects_are_paired_by_drive():
    before = [evaluation([0, 1, 0, 0], [1, 1, 1, 0]), evaluation([0, 0, 0, 0], [1, 1, 1, 1])]
    after = [evaluation([1, 1, 0, 1], [1, 1, 0, 1]), evaluation([1, 0, 0, 1], [1, 1, 1, 1])]
    mean, low, high = gemini_common.paired_effect(before, after, "off_road")
    # Differences 1, 0 of the first seed, and 1, 0, 0, 1 of the second one.
    assert mean == pytest.approx(3 / 6) and low <= mean <= high
    none = [evaluation([0, 0], [0, 0])]
    assert np.isnan(gemini_common.paired_effect(none, none, "off_road")).all()
    assert gemini_common.rate(after, "off_road")[0] == pytest.approx(5 / 7)


def test_ratios_of_likelihoods():
    ratio = gemini_common.nll_ratio([{"nll": np.array([1.0, 2.0])}], [{"nll": np.array([2.0, 2.0])}])
    assert ratio[0] == pytest.approx(-0.25)


def test_shares_need_an_effect():
    assert effect_share(0.1, 0.4) == pytest.approx(0.25)
    for effect in (0.0, -0.4, np.nan):
        assert not Criterion("share", effect_share(-0.1, effect), high=0.25).passed


def test_criteria_are_written_as_json():
    single: Any = np.float32(0.25)
    assert json.loads(json.dumps(Criterion("share", single).value)) == 0.25


def empty_tokens(count, raster):
    """Tokens without content but the raster."""
    pieces, steps = np.zeros((count, 2, 6), np.float32), np.zeros((count, 3, 6), np.float32)
    valid = np.zeros((count, 2), bool)
    motion = np.zeros((count, 3), np.int32)
    return SceneTokens(pieces, valid, pieces[..., :2], valid, raster, steps, motion, steps[..., :5], motion)


def test_thin_rasters_show_fewer_cells_and_clutter():
    bed = gemini_common.Bed(empty_tokens(40, np.ones((40, 4, 256), np.float32)), draw_situations(0, 40))
    thin = np.asarray(gemini_decoding.thin_raster(bed, 0).tokens.raster)
    share = thin.mean(axis=(1, 2))
    assert share.min() < 0.1 and 0.5 < share.max() < 0.65
    np.testing.assert_array_equal(thin, gemini_decoding.thin_raster(bed, 0).tokens.raster)


def style_rows(value, control):
    def row(number):
        return [{name: number + 0.01 * index for name in long_horizon.NAMES} for index in range(4)]

    return {"traffic": row(0.8), "drivers": row(value), "control": row(control), "policy": row(0.7)}


def test_criteria_of_long_horizons():
    assert [each.name for each in long_horizon.find_criteria(style_rows(0.75, 0.3)) if not each.passed] == []
    failed = [each.name for each in long_horizon.find_criteria(style_rows(0.3, 0.3)) if not each.passed]
    assert len(failed) == 4 and all("drivers" in name for name in failed)
    rows = style_rows(0.75, 0.3)
    rows["policy"][0] = dict.fromkeys(long_horizon.NAMES)
    failed = [each.name for each in long_horizon.find_criteria(rows) if not each.passed]
    assert len(failed) == 2 and all("policy" in name for name in failed)


@pytest.mark.slow
@pytest.mark.max_programs(1200)
def test_quick_runs(tmp_path):
    gemini.main(gemini_common.Study(tmp_path / "gemini", quick=True))
    report = json.loads((tmp_path / "gemini" / "report.json").read_text())
    assert {row["name"] for row in report if "N6" in row["name"] and row["passed"]} == {
        "N6 largest difference of ten losses after a restart",
        "N6 equal checksums of the parameters",
    }
    criteria = long_horizon.main(long_horizon.Study(tmp_path / "long", quick=True))
    assert len(criteria) == 6
