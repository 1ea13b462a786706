"""Beam as the engine of a conversion, with its direct runner.

Beam asks for an older protobuf than other tools, so it has an environment of its own:
`pip install '.[beam]' pytest hypothesis beartype` there, then `python -m pytest tests/beam`.
"""

import pytest

pytest.importorskip("apache_beam", reason="apache-beam is not installed; it has an environment of its own")


@pytest.mark.filterwarnings("default")
def test_beam_writes_the_scenes_that_one_process_writes(tmp_path):
    import tensorflow_datasets as tfds

    from waymax_sim.datasets.builder import WaymaxSim
    from waymax_sim.datasets.loader import load

    stores = []
    for name, use_beam in (("one", False), ("beam", True)):
        builder = WaymaxSim(paths=["synthetic:0:3"], data_dir=str(tmp_path / name), use_beam=use_beam)
        config = tfds.download.DownloadConfig(beam_runner="DirectRunner") if use_beam else None
        builder.download_and_prepare(download_config=config)
        stores.append([scenario.scenario_id for scenario in load(builder.data_dir)])
    assert stores[0] == stores[1] and sorted(stores[0]) == [f"synthetic-0-{index}" for index in range(3)]
