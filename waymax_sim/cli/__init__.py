"""The command `waymax-sim`. Exit codes: 0 success, 1 no usable data, 2 usage error, 130 interrupted."""

import io
import sys

import tyro

import waymax_sim
from waymax_sim.cli.commands import plugin_commands
from waymax_sim.cli.common import DONE, INTERRUPTED, NOTHING_USABLE, USAGE_ERROR, UsageError
from waymax_sim.cli.compilation import announce_compilation, enable_cache
from waymax_sim.cli.data import convert, draw, generate, info
from waymax_sim.cli.evaluate import compare, evaluate
from waymax_sim.cli.simulate import bench, demo, realism
from waymax_sim.datasets.errors import DataError
from waymax_sim.plugins import PluginError
from waymax_sim.text import printable

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
    for stream in (sys.stdout, sys.stderr):
        # Ids and paths may have characters that the encoding of the terminal lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except SystemExit as stop:  # tyro has printed help or an error of the options
        if isinstance(stop.code, str):  # a plug-in command has called `sys.exit("a message")`
            return _print_error(stop.code, USAGE_ERROR)
        return stop.code or DONE
    except (UsageError, PluginError) as error:
        return _print_error(error, USAGE_ERROR)
    except (DataError, OSError) as error:
        return _print_error(error, NOTHING_USABLE)
    except MemoryError:
        return _print_error("the available memory is exhausted; use smaller inputs or fewer scenes", NOTHING_USABLE)
    except KeyboardInterrupt:
        return _print_error("interrupted", INTERRUPTED)


def _run(arguments: list[str]) -> int:
    """Runs one command; plug-in commands may return no exit code."""
    if arguments == ["--version"]:
        print(f"waymax-sim {waymax_sim.__version__}")
        return DONE
    requested = arguments[0] if arguments else ""
    # The benchmark measures compilation, and help compiles nothing.
    cache = None if requested in ("", "bench") or requested.startswith("-") else enable_cache()
    with announce_compilation(cache):
        code = tyro.extras.subcommand_cli_from_dict(
            BUILT_IN | plugin_commands(requested, BUILT_IN),
            prog="waymax-sim",
            description="A multi-agent driving simulator in JAX. `waymax-sim --version` prints the version.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    return code if isinstance(code, int) else DONE


def _print_error(error: object, code: int) -> int:
    # Messages of plug-ins may have several lines; those about data have one.
    print("\n".join(map(printable, f"error: {error}".split("\n"))), file=sys.stderr)
    return code
