import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from waymax_sim.bench import measure
from waymax_sim.bench.measure import MIN_SAMPLE_S, compile_program, interleaved, over_devices, wait_until_idle


def test_functions_alternate_and_start_when_the_process_is_idle(monkeypatch):
    order = []
    monkeypatch.setattr(measure, "wait_until_idle", lambda: order.append("."))
    samples = interleaved([lambda _, name=name: slow(order, name) for name in "ab"], repeats=3, seconds=0.0)
    # The first call of each determines the number of calls per sample.
    assert "".join(order) == ".a.b" + ".a.b" * 3
    assert all(len(item.wall) == len(item.cpu) == 3 for item in samples)
    assert all(wall >= MIN_SAMPLE_S for item in samples for wall in item.wall)


def slow(order: list[str], name: str) -> None:
    order.append(name)
    time.sleep(1.5 * MIN_SAMPLE_S)


def test_short_functions_are_called_many_times_with_new_numbers():
    numbers = []
    (samples,) = interleaved([numbers.append], repeats=2, seconds=0.0)
    assert len(samples.wall) == 2 and min(samples.wall) > 0
    assert len(numbers) > 20
    assert len(set(numbers[2:])) == len(numbers) - 2  # after two that determine the number of calls per sample


@pytest.mark.parametrize(("remaining", "pauses"), [(0.0, 1), (0.035, 5), (1e9, measure.MAX_PAUSES)])
def test_background_work_is_waited_for(monkeypatch, remaining, pauses):
    """Threads that use `remaining` seconds of a core after the call, on a simulated clock."""
    slept = []
    clock = SimpleNamespace(sleep=slept.append, process_time=lambda: min(sum(slept), remaining))
    monkeypatch.setattr(measure, "time", clock)
    wait_until_idle()
    assert len(slept) == pauses


def test_programs_run_with_each_variant():
    program = compile_program(lambda x: jnp.sin(x) @ x, [(jnp.full((64, 64), value),) for value in (1.0, 2.0)])
    np.testing.assert_allclose(program.result, np.full((64, 64), 64 * np.sin(1.0)), rtol=1e-5)
    np.testing.assert_allclose(program.call(3), np.full((64, 64), 128 * np.sin(2.0)), rtol=1e-5)
    assert program.compile_s > 0
    assert program.argument_mb == program.output_mb == pytest.approx(64 * 64 * 4 / 1e6)
    assert program.accessed_mb >= 2 * program.argument_mb


@pytest.mark.parametrize("batch", [2, 3])
def test_devices_change_no_result(batch):
    x = jnp.arange(4.0 * batch).reshape(batch, 4)
    function, variants = over_devices(jax.vmap(jnp.cumsum), [(x,)], batch)
    result = jax.jit(function)(*variants[0])
    np.testing.assert_array_equal(result, np.cumsum(x, axis=1))
    if jax.device_count() == 2:
        assert len(result.sharding.device_set) == (2 if batch == 2 else 1)
