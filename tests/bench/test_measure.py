import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from waymax_sim.bench import measure
from waymax_sim.bench.measure import SAMPLE, compiled, interleaved, over_devices, settle


def test_functions_take_turns_and_start_when_the_process_rests(monkeypatch):
    order = []
    monkeypatch.setattr(measure, "settle", lambda: order.append("."))
    samples = interleaved([lambda _, name=name: slow(order, name) for name in "ab"], repeats=3, seconds=0.0)
    # Each is tried once to see how long it takes.
    assert "".join(order) == ".a.b" + ".a.b" * 3
    assert all(len(item.wall) == len(item.cpu) == 3 for item in samples)
    assert all(wall >= SAMPLE for item in samples for wall in item.wall)


def slow(order: list[str], name: str) -> None:
    order.append(name)
    time.sleep(1.5 * SAMPLE)


def test_short_functions_are_called_many_times_with_new_numbers():
    seen = []
    (samples,) = interleaved([seen.append], repeats=2, seconds=0.0)
    assert len(samples.wall) == 2 and min(samples.wall) > 0
    assert len(seen) > 20
    assert len(set(seen[2:])) == len(seen) - 2  # after the two that tell how long it takes


@pytest.mark.parametrize(("left", "pauses"), [(0.0, 1), (0.035, 5), (1e9, measure.MAX_PAUSES)])
def test_what_a_function_leaves_to_do_is_waited_for(monkeypatch, left, pauses):
    """Threads that go on for `left` seconds of a core after the call, on a clock of the test."""
    slept = []
    clock = SimpleNamespace(sleep=slept.append, process_time=lambda: min(sum(slept), left))
    monkeypatch.setattr(measure, "time", clock)
    settle()
    assert len(slept) == pauses


def test_what_is_compiled_is_run_with_each_variant():
    program = compiled(lambda x: jnp.sin(x) @ x, [(jnp.full((64, 64), value),) for value in (1.0, 2.0)])
    np.testing.assert_allclose(program.result, np.full((64, 64), 64 * np.sin(1.0)), rtol=1e-5)
    np.testing.assert_allclose(program.call(3), np.full((64, 64), 128 * np.sin(2.0)), rtol=1e-5)
    assert program.compile_s > 0
    assert program.argument_mb == program.output_mb == pytest.approx(64 * 64 * 4 / 1e6)
    assert program.mflop == pytest.approx(2 * 64**3 / 1e6, rel=0.2)
    assert program.accessed_mb >= 2 * program.argument_mb


@pytest.mark.parametrize("batch", [2, 3])
def test_devices_change_no_result(batch):
    x = jnp.arange(4.0 * batch).reshape(batch, 4)
    function, variants = over_devices(jax.vmap(jnp.cumsum), [(x,)], batch)
    result = jax.jit(function)(*variants[0])
    np.testing.assert_array_equal(result, np.cumsum(x, axis=1))
    if jax.device_count() == 2:
        assert len(result.sharding.device_set) == (2 if batch == 2 else 1)
