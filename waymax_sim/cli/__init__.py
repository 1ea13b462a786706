"""The command `waymax-sim`. Exit codes: 0 done, 1 nothing usable, 2 wrong call, 130 interrupted."""

import sys

import tyro

from waymax_sim.cli.commands import plugin_commands
from waymax_sim.cli.common import DONE, INTERRUPTED, NOTHING_USABLE, WRONG_CALL, WrongCall
from waymax_sim.cli.data import convert, draw, generate, info
from waymax_sim.cli.evaluate import compare, evaluate
from waymax_sim.cli.simulate import bench, demo, realism
from waymax_sim.datasets.errors import DataError
from waymax_sim.plugins import PluginError

BUILT_IN = {
    "demo": demo,
    "info": info,
    "evaluate": evaluate,
    "realism": realism,
    "draw": draw,
    "compare": compare,
    "convert": convert,
    "generate": generate,
    "bench": bench,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _run(arguments)
    except SystemExit as stop:  # tyro has printed help or what is wrong with the options
        if isinstance(stop.code, str):  # of a command that ends with `sys.exit("a message")`
            return _say_error(stop.code, WRONG_CALL)
        return stop.code or DONE
    except (WrongCall, PluginError) as error:
        return _say_error(error, WRONG_CALL)
    except (DataError, OSError) as error:
        return _say_error(error, NOTHING_USABLE)
    except KeyboardInterrupt:
        return _say_error("interrupted", INTERRUPTED)


def _run(arguments: list[str]) -> int:
    """Runs one command; those of plug-ins may return no exit code."""
    code = tyro.extras.subcommand_cli_from_dict(
        BUILT_IN | plugin_commands(arguments[0] if arguments else "", BUILT_IN),
        prog="waymax-sim",
        description="A multi-agent driving simulator in JAX.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return code if isinstance(code, int) else DONE


def _say_error(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
