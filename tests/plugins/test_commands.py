import importlib
import sys
from pathlib import Path

import pytest

from tests.plugins.packages import write_module, write_package
from waymax_sim.cli import BUILT_IN, main
from waymax_sim.plugins import COMMAND_GROUP

SOURCE = """
    import sys

    from waymax_sim.plugins import resolve_policy


    def count(to: int = 3, code: int = 0) -> int:
        '''Counts aloud.

        Args:
          to: Last number.
          code: Exit code.
        '''
        print(*range(1, to + 1))
        return code


    def says_nothing():
        '''Returns no exit code.'''


    def stops(reason: str):
        sys.exit(reason)


    def drive(policy: str):
        print(resolve_policy(policy))


    constant = 3
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch) -> Path:
    """A folder on the path with a module of commands and packages that register them."""
    write_module(tmp_path, "counting_commands", SOURCE)
    write_module(tmp_path, "counting_broken", "import no_such_library")
    names = {
        "count": "count",
        "says_nothing": "says_nothing",
        "stops": "stops",
        "drive": "drive",
        "no-code": "constant",
    }
    registered = {name: f"counting_commands:{attribute}" for name, attribute in names.items()}
    write_package(tmp_path, "counters", {COMMAND_GROUP: registered | {"broken": "counting_broken:run"}})
    write_package(tmp_path, "thief", {COMMAND_GROUP: {"info": "counting_commands:count"}})
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("counting_commands", "counting_broken"):
        sys.modules.pop(name, None)


def test_a_command_takes_options_and_gives_the_exit_code(capsys):
    assert main(["count", "--to", "4"]) == 0
    assert capsys.readouterr().out == "1 2 3 4\n"
    assert main(["count", "--code", "7"]) == 7
    assert main(["says_nothing"]) == 0
    assert main(["count", "--help"]) == 0
    assert "Last number." in capsys.readouterr().out
    assert main(["count", "--two", "4"]) == 2


def test_a_command_ends_with_a_message(capsys):
    assert main(["stops", "--reason", "no data"]) == 2
    assert capsys.readouterr().err == "error: no data\n"


def test_a_command_resolves_policies(capsys):
    assert main(["drive", "--policy", "idm"]) == 0
    assert capsys.readouterr().out == "IDM()\n"
    assert main(["drive", "--policy", "imd"]) == 2
    assert "did you mean idm?" in capsys.readouterr().err


def test_help_lists_all_commands_and_loads_no_overridden_one(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    text = " ".join(out.replace("│", " ").split())
    for name in (
        *BUILT_IN,
        "count Counts aloud.",
        "says_nothing",
        "broken Cannot be loaded; its own --help prints the reason.",
    ):
        assert name in text
    assert err.splitlines() == [
        "ignored: command 'info' of thief (counting_commands:count), because a built-in command has this name"
    ]


def test_a_built_in_command_imports_no_plugin(capsys):
    assert main(["draw", "--help"]) == 0
    assert capsys.readouterr().err == ""
    assert not {"counting_commands", "counting_broken"} & set(sys.modules)


def test_a_built_in_name_wins(capsys):
    assert main(["info", "synthetic:0:1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert '"scenario_id"' in out
    assert "ignored: command 'info' of thief" in err


def test_a_broken_command_reports_the_reason_when_requested(capsys):
    assert main(["broken", "--help"]) == 2
    assert "ModuleNotFoundError: No module named 'no_such_library'" in capsys.readouterr().err
    assert main(["no-code"]) == 2
    assert "'no-code' of counters (counting_commands:constant) is not callable" in capsys.readouterr().err
    assert main(["count", "--to", "1"]) == 0


def test_a_name_of_two_packages_is_ambiguous(installed, monkeypatch, capsys):
    write_package(installed / "other", "rival", {COMMAND_GROUP: {"count": "counting_commands:says_nothing"}})
    monkeypatch.syspath_prepend(installed / "other")
    assert main(["count"]) == 2
    assert "is ambiguous: it is registered by " in capsys.readouterr().err


def test_an_unknown_command_is_answered_with_all(capsys):
    assert main(["fly"]) == 2
    err = capsys.readouterr().err
    assert "fly" in err and "says_nothing" in err and "evaluate" in err
