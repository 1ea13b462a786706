import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

import behavior_models
from behavior_models.checkpoints import RELEASED
from tests.plugins.packages import write_module, write_package
from waymax_sim.env import Policy
from waymax_sim.plugins import POLICY_GROUP, PluginError, policy_names, resolve_policy


@pytest.fixture(autouse=True)
def imports(monkeypatch):
    """Forgets what a test imports from its folder, and what it appends to the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("braking_"):
            del sys.modules[name]


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A folder on the path with the module `braking_installed` and a package that registers it."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_module(folder, "braking_installed")
    write_module(folder, "braking_broken", "import no_such_library")
    write_module(folder, "braking_exits", "raise SystemExit(3)")
    names = {"braking": "Braking", "ready-made": "ready", "factory": "make", "hard": "hard"}
    registered = {name: f"braking_installed:{attribute}" for name, attribute in names.items()}
    registered |= {
        "broken": "braking_broken:Policy",
        "exits": "braking_exits:Policy",
        "renamed": "braking_installed:Old",
        "extra": "braking_installed:ready [train]",
    }
    write_package(folder, "brakes", {POLICY_GROUP: registered})
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    return folder


def message_of(text: str) -> str:
    with pytest.raises(PluginError) as caught:
        resolve_policy(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_behavior_models_registers_all_of_its_policies():
    entry_points = metadata.distribution("waymax-sim").entry_points.select(group=POLICY_GROUP)
    registered = {item.name: item.load() for item in entry_points}
    assert registered == {**behavior_models.POLICIES, **RELEASED}
    for name, make in behavior_models.POLICIES.items():
        assert getattr(behavior_models, make.__name__) is make
        assert resolve_policy(name) == make()
    assert set(policy_names()) >= set(registered)


def test_built_in_policies_have_options():
    assert resolve_policy("mppi:temperature=0.1,num_elites=4") == behavior_models.MPPI(temperature=0.1, num_elites=4)
    assert "num_samples: int" in message_of("mppi:samples=3")


def test_packages_register_classes_factories_and_policies(installed):
    assert {"braking", "ready-made", "factory"} <= set(policy_names())
    for text, deceleration in {
        "extra": 2.0,
        "braking": 1.0,
        "braking:deceleration=4": 4.0,
        "ready-made": 2.0,
        "factory": 3.0,
        "factory:deceleration=5": 5.0,
        "hard": 8.0,
        "braking_installed:Braking": 1.0,
        "braking_installed:Braking:deceleration=4.5": 4.5,
        "braking_installed:make:deceleration=6": 6.0,
        "braking_installed:ready": 2.0,
    }.items():
        policy = resolve_policy(text)
        assert isinstance(policy, Policy) and policy.deceleration == deceleration


def test_an_unknown_name_is_answered_with_known_and_similar_ones(installed):
    message = message_of("constant_velocty")
    assert message.startswith("unknown policy 'constant_velocty' (did you mean constant_velocity")
    assert " braking, " in message and "idm, " in message
    assert "did you mean" not in message_of("zzzz")


def test_without_registered_policies_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(metadata, "entry_points", lambda group: ())
    assert message_of("idm") == (
        "unknown policy 'idm': no installed package registers policies; install waymax-sim with pip"
    )


def test_a_broken_plugin_breaks_no_other(installed):
    assert "broken" in policy_names()
    assert resolve_policy("braking").deceleration == 1.0
    assert "no_such_library" not in message_of("brokn")
    assert message_of("broken") == (
        "'broken' of brakes (braking_broken:Policy) cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_library'"
    )
    assert "cannot be imported: SystemExit: 3" in message_of("exits")
    assert "braking_installed.py) has no attribute Old" in message_of("renamed")
    assert "cannot be imported: ImportError: needs flax" in message_of("braking_installed:Learned")


def test_a_name_of_two_packages_is_ambiguous(installed, tmp_path, monkeypatch):
    write_package(tmp_path / "other", "copy", {POLICY_GROUP: {"braking": "braking_installed:Braking"}})
    monkeypatch.syspath_prepend(tmp_path / "other")
    assert resolve_policy("braking").deceleration == 1.0
    write_package(tmp_path / "other", "rival", {POLICY_GROUP: {"braking": "braking_installed:make"}})
    monkeypatch.syspath_prepend(tmp_path / "other")
    message = message_of("braking")
    assert "ambiguous" in message and "rival (braking_installed:make)" in message and "Braking)" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("braking:decelaration=2", "did you mean deceleration?"),
        ("braking:deceleration=fast", "'fast' is not of type float"),
        ("braking:deceleration=1,deceleration=2", "given twice"),
        ("braking:", "option '' is not key=value"),
        ("braking:fast,deceleration=2", "option 'fast' is not key=value"),
        ("braking:deceleration", "an option of the policy braking is written braking:deceleration=VALUE"),
        ("ready-made:deceleration=2", "it takes no options"),
        ("hard:rate=2", "no option 'rate'"),
        ("log_expert:smoothing=2", "log_expert cannot be made: ValueError: smoothing must be an odd"),
        ("braking_installed:Brakign", "did you mean Braking?"),
        ("braking_installed:Braking.rate", "has no attribute Braking.rate"),
        ("braking_installed:constant", "neither a policy nor makes one: it is of type int"),
        ("braking_installed:fails", "cannot be made: ValueError: no such model"),
        ("braking_installed:load", "cannot be made: TypeError: load() missing 1 required"),
        ("braking_installed:returns_class", "it is a class"),
        ("braking_installed:Unregistered", "is not a pytree"),
        ("builtins:dict", "gives a dict that is not a waymax_sim.env.Policy"),
        ("builtins:dict:a=1", "it has no options"),
        ("no_such_module:Policy", "No module named 'no_such_module'"),
        (".relative:Policy", "cannot be imported"),
        ("braking_installed.sub:Policy", "cannot be imported"),
        ("a=b", "unknown policy 'a=b'"),
        (":", "policy ':' is neither a name nor module:attribute"),
        (":x", "policy ':x' is neither"),
        ("", "policy '' is neither"),
        ("x" * 10_000, "unknown policy"),
    ],
)
def test_errors_name_the_reason(text, reason, installed):
    assert reason in message_of(text)


def test_the_current_directory_is_importable_and_shadows_nothing(tmp_path, monkeypatch):
    write_module(tmp_path, "braking_local")
    (tmp_path / "behavior_models.py").write_text("raise RuntimeError")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError")
    assert "No module named 'braking_local'" in message_of("braking_local:Braking")
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    assert resolve_policy("braking_local:Braking:deceleration=7").deceleration == 7.0
    assert resolve_policy("behavior_models:IDM") == behavior_models.IDM()
    assert "colorsys" in message_of("colorsys:Policy") and "RuntimeError" not in message_of("colorsys:Policy")


def write_checkpoint(folder: Path, text: str | bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "policy.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "weights.txt").write_text("2.5")


@pytest.mark.parametrize("name", ["run", "a,b=c:d[/e]", "idm", "braking_installed:Braking"])
def test_a_checkpoint_folder_is_loaded(name, installed, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "runs" / name, json.dumps({"loader": "braking_installed:load", "steps": 3}))
    assert resolve_policy(str(tmp_path / "runs" / name)).deceleration == 2.5
    monkeypatch.chdir(tmp_path / "runs")
    assert resolve_policy(name).deceleration == 2.5


def test_a_folder_without_policy_file_hides_no_name(installed, tmp_path, monkeypatch):
    (tmp_path / "idm").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_policy("idm") == behavior_models.IDM()
    assert message_of("run") == "the folder run is not a checkpoint: it has no policy.json"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not readable JSON: JSONDecodeError"),
        ("{'loader': 1}", "is not readable JSON"),
        (b"\xff\xfe", "is not readable JSON: UnicodeDecodeError"),
        ("[" * 100_000, "is not readable JSON: RecursionError"),
        ("[]", "is not a JSON object with the field 'loader'"),
        ("{}", "field 'loader': null is not 'module:function'"),
        ('{"loader": 3}', "field 'loader': 3 is not"),
        ('{"loader": "load"}', "field 'loader': \"load\" is not"),
        ('{"loader": "a b:load"}', "is not 'module:function'"),
        ('{"loader": "no_such_module:load"}', "No module named 'no_such_module'"),
        ('{"loader": "braking_installed:laod"}', "did you mean load?"),
        ('{"loader": "braking_installed:constant"}', "is not a function"),
        ('{"loader": "braking_installed:fails"}', "cannot be loaded by braking_installed:fails: TypeError"),
        ('{"loader": "braking_installed:Unregistered"}', "cannot be loaded by"),
        ('{"loader": "builtins:str"}', "gives a str that is not a waymax_sim.env.Policy"),
    ],
)
def test_errors_of_a_checkpoint_name_file_and_field(text, reason, installed, tmp_path):
    write_checkpoint(tmp_path / "run", text)
    message = message_of(str(tmp_path / "run"))
    assert reason in message and str(tmp_path / "run") in message


def test_code_inside_a_checkpoint_is_not_imported(installed, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "run", '{"loader": "run.braking_inside:load"}')
    write_module(tmp_path / "run", "braking_inside")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item not in ("", str(Path.cwd()))])
    assert "No module named 'run'" in message_of("run")
