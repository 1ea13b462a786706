"""The software and hardware that results depend on."""

from importlib import metadata

import jax

from waymax_sim.results_dir import Json


def environment_info() -> Json:
    """Versions of the simulator and of JAX, and the kind of device."""
    return {
        "versions": {"waymax_sim": version(), "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def version() -> str:
    """The installed version of the simulator."""
    try:
        return metadata.version("waymax-sim")
    except metadata.PackageNotFoundError:
        return "not installed"
