"""The command `waymax-sim`. Exit codes: 0 done, 1 nothing usable, 2 wrong call, 130 interrupted."""

import sys

import tyro

from waymax_sim.cli.common import INTERRUPTED, NOTHING_USABLE, WRONG_CALL, WrongCall
from waymax_sim.cli.data import convert, draw, generate, info
from waymax_sim.cli.evaluate import compare, evaluate
from waymax_sim.cli.simulate import bench, demo, realism
from waymax_sim.datasets.errors import DataError


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    commands = {"demo": demo, "info": info, "evaluate": evaluate, "realism": realism, "draw": draw}
    commands |= {"compare": compare, "convert": convert, "generate": generate, "bench": bench}
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="waymax-sim",
            description="A multi-agent driving simulator in JAX.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed help or what is wrong with the options
        return stop.code if isinstance(stop.code, int) else WRONG_CALL
    except WrongCall as error:
        return _say_error(error, WRONG_CALL)
    except (DataError, OSError) as error:
        return _say_error(error, NOTHING_USABLE)
    except KeyboardInterrupt:
        return _say_error("interrupted", INTERRUPTED)


def _say_error(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
