"""The software and hardware that results depend on."""

import jax

import waymax_sim
from waymax_sim.results_dir import Json


def environment_info() -> Json:
    """Versions of the simulator and of JAX, and the kind of device."""
    return {
        "versions": {"waymax_sim": waymax_sim.__version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }
