"""Pickles as data: plain data are restored, other pickles are refused and not executed."""

import builtins
import collections
import os
import pickle
import subprocess
import sys
import tracemalloc
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waymax_sim.datasets.encoding import safe_pickle
from waymax_sim.datasets.encoding.safe_pickle import loads
from waymax_sim.datasets.errors import DataError

KEYS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(
    KEYS | st.binary(),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(KEYS, inner), st.sets(KEYS), st.frozensets(KEYS)
    ),
    max_leaves=20,
)
ARRAYS = {
    "floats": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "a slice": np.arange(24, dtype=np.float32).reshape(4, 6)[::2, 1:3],
    "booleans": np.array([True, False]),
    "text": np.array(["ab", "äöü"]),
    "bytes": np.array([b"ab", b"c"]),
    "half": np.array([0.5], np.float16),
    "unsigned": np.array([255], np.uint8),
    "empty": np.zeros((0, 3)),
    "a number": np.array(2.5),
}


@settings(max_examples=200)
@given(value=PLAIN, protocol=st.sampled_from([4, 5]))
def test_plain_data_come_back(value, protocol):
    assert loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(name, protocol):
    array = ARRAYS[name]
    found = loads(pickle.dumps([array, array], protocol))
    assert found[0] is found[1]
    assert found[0].dtype == array.dtype
    np.testing.assert_array_equal(found[0], array)


def test_scalars_of_numpy_become_numbers():
    scalars = [np.float32(0.5), np.int64(-7), np.bool_(True), np.str_("ab")]
    found = loads(pickle.dumps(scalars, 4))
    assert found == [0.5, -7, True, "ab"]
    assert [type(value) for value in found] == [float, int, bool, str]


def test_names_of_numpy_1_are_read():
    data = pickle.dumps(np.arange(3.0), 4)
    assert b"numpy._core.multiarray" in data
    older = data.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    # The frame holds one byte less.
    older = older[:3] + (len(older) - 11).to_bytes(8, "little") + older[11:]
    np.testing.assert_array_equal(loads(older), np.arange(3.0))


def test_a_defaultdict_becomes_a_dict():
    value = collections.defaultdict(int, a=1)
    found = loads(pickle.dumps({"x": value}))
    assert found == {"x": {"a": 1}} and type(found["x"]) is dict


def class_pickle(module, name, content, protocol):
    """A pickle of an instance of a subclass of dict; neither its module nor its class exists here."""
    cls = type(name, (dict,), {"__module__": module})
    package, parts = types.ModuleType(module), module.split(".")
    setattr(package, name, cls)
    with pytest.MonkeyPatch.context() as patch:
        for end in range(1, len(parts)):
            patch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[0]))
        patch.setitem(sys.modules, module, package)
        return pickle.dumps(cls(content), protocol)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_scenario_descriptions_of_metadrive_become_dicts(protocol):
    module = "metadrive.scenario.scenario_description"
    content = {"a": 1, "b": np.arange(3.0)} if protocol > 2 else {"a": 1}
    found = loads(class_pickle(module, "ScenarioDescription", content, protocol))
    assert type(found) is dict and found["a"] == 1
    assert module not in sys.modules
    for other in ((module, "Other"), ("metadrive.other", "ScenarioDescription")):
        with pytest.raises(DataError, match="which is not allowed"):
            loads(class_pickle(*other, content, protocol))


def test_scenario_descriptions_take_no_arguments():
    description = named("metadrive.scenario.scenario_description", "ScenarioDescription")
    for data in (
        b"\x80\x04" + description + ZERO + pickle.TUPLE1 + pickle.NEWOBJ + b".",
        called(description, ZERO),
    ):
        with pytest.raises(DataError, match="arguments that do not build plain data"):
            loads(data)
    attributes = description + pickle.EMPTY_TUPLE + pickle.NEWOBJ + pickle.EMPTY_DICT + pickle.BUILD
    with pytest.raises(DataError, match="sets the state of a dict"):
        loads(b"\x80\x04" + attributes + b".")
    with pytest.raises(DataError, match="not a valid pickle"):
        loads(b"\x80\x04" + pickle.EMPTY_TUPLE + pickle.NEWOBJ + b".")


def test_a_shared_value_is_one_value():
    inner: list = [1]
    found = loads(pickle.dumps([inner, inner]))
    assert found[0] is found[1]


def test_a_list_in_itself_ends():
    loop: list = []
    loop.append(loop)
    found = loads(pickle.dumps(loop))
    assert found[0] is found


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


RAN = []


def touch(*arguments):
    RAN.append(arguments)


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def called(function: bytes, *arguments: bytes, then: bytes = b"") -> bytes:
    """A pickle of a call with up to three or any arguments."""
    return pickle.MARK.join([b"\x80\x04" + function, b"".join(arguments) + pickle.TUPLE + pickle.REDUCE + then + b"."])


NDARRAY, DTYPE = named("numpy", "ndarray"), named("numpy", "dtype")
RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
SCALAR, FROM_BUFFER = named("numpy._core.multiarray", "scalar"), named("numpy._core.numeric", "_frombuffer")
ZERO, EIGHT = pickle.BININT1 + b"\0", pickle.BININT1 + b"\x08"
SHAPE_0 = ZERO + pickle.TUPLE1
BYTES_8 = pickle.SHORT_BINBYTES + b"\x08" + bytes(8)
A_DTYPE = DTYPE + text("f8") + pickle.TUPLE1 + pickle.REDUCE
AN_ARRAY = RECONSTRUCT + NDARRAY + SHAPE_0 + pickle.SHORT_BINBYTES + b"\x01b" + pickle.TUPLE3 + pickle.REDUCE
HUGE = pickle.BININT + (2**31 - 1).to_bytes(4, "little")
MALICIOUS = {
    f"refers to {os.name}.system": pickle.dumps(Calls(os.system, "exit 1")),
    "refers to builtins.eval": pickle.dumps(Calls(builtins.eval, "1")),
    "refers to tests.datasets.test_safe_pickle.touch": pickle.dumps(Calls(touch, 1)),
    "refers to os.system": b"cos\nsystem\n(S'exit 1'\ntR.",
    "refers to numpy.load": called(named("numpy", "load"), text("a")),
    "refers to builtins.getattr": called(named("builtins", "getattr"), NDARRAY, text("dump")),
    "refers to numpy.ndarray.tofile": called(named("numpy", "ndarray.tofile"), text("a")),
    "refers to functools.partial": called(named("functools", "partial"), NDARRAY),
    "refers to torch.storage._load_from_bytes": called(named("torch.storage", "_load_from_bytes"), BYTES_8),
    "calls numpy.ndarray": called(NDARRAY, HUGE + pickle.TUPLE1),
    "calls builtins.list": called(named("builtins", "list"), BYTES_8),
    "calls numpy._core.multiarray._reconstruct": called(
        RECONSTRUCT, NDARRAY, HUGE + pickle.TUPLE1, pickle.SHORT_BINBYTES + b"\x01b"
    ),
    "calls numpy._core.multiarray._reconstruct ": called(RECONSTRUCT, DTYPE, SHAPE_0, BYTES_8),
    "calls numpy.dtype": called(DTYPE, text("O8")),
    "calls numpy.dtype ": called(DTYPE, text("f8,O")),
    "calls collections.defaultdict": called(named("collections", "defaultdict"), ZERO),
    "calls a int": called(ZERO, ZERO),
    "sets the state of a Name": b"\x80\x04" + NDARRAY + pickle.EMPTY_DICT + pickle.BUILD + b".",
    "sets the state of a dict": b"\x80\x04" + pickle.EMPTY_DICT * 2 + pickle.BUILD + b".",
    "sets the state of a Float64DType": b"\x80\x04" + A_DTYPE + pickle.MARK + ZERO + text(">") + pickle.TUPLE + b"b.",
    "sets the state of a ndarray": b"\x80\x04" + AN_ARRAY + pickle.EMPTY_LIST + pickle.BUILD + b".",
    "shape does not match its bytes": called(FROM_BUFFER, BYTES_8, A_DTYPE, HUGE + pickle.TUPLE1, text("C")),
    "shape does not match its bytes ": called(
        FROM_BUFFER, pickle.SHORT_BINBYTES + b"\0", A_DTYPE, HUGE + ZERO + pickle.TUPLE2, text("C")
    ),
    "shape does not match its bytes  ": called(SCALAR, A_DTYPE, pickle.SHORT_BINBYTES + b"\x01a"),
    "as a key": b"\x80\x04" + pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.NONE + pickle.SETITEM + b".",
    "as a key ": b"\x80\x04" + pickle.EMPTY_SET + pickle.MARK + pickle.EMPTY_TUPLE + pickle.ADDITEMS + b".",
    "more than 64 bits": pickle.dumps(2**63),
    "opcode b'i'": b"(ios\nsystem\n.",
    "opcode b'o'": b"(" + NDARRAY + b"o.",
    r"opcode b'\\x81'": b"\x80\x04" + NDARRAY + pickle.EMPTY_TUPLE + pickle.NEWOBJ + b".",
    r"opcode b'\\x82'": pickle.EXT1 + b"\1.",
    "opcode b'Q'": text("id") + pickle.BINPERSID + b".",
    "opcode b'P'": b"Pid\n.",
}


@pytest.mark.parametrize("message", MALICIOUS)
def test_other_opcodes_and_names_are_refused_and_not_executed(message):
    with pytest.raises(DataError, match=message.rstrip()):
        loads(MALICIOUS[message])
    assert not RAN


def test_the_standard_library_would_have_run_it():
    """The malicious pickles above are effective."""
    pickle.loads(MALICIOUS["refers to tests.datasets.test_safe_pickle.touch"])
    assert RAN.pop() == (1,)


@pytest.mark.parametrize(
    "value",
    [np.array([None]), np.zeros(2, "M8[s]"), np.zeros(2, "f4,f4"), np.zeros(2, ">f4"), np.zeros(2, complex), range(3)],
    ids=str,
)
def test_other_kinds_of_arrays_and_values_are_refused(value):
    with pytest.raises(DataError):
        loads(pickle.dumps(value, 4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b".",
        pickle.dumps([1, 2])[:-1],
        b"0.",
        b"\x85.",
        b"e.",
        b"h\x07.",
        b"]Na.."[:2],
        b"\x8c\x02\xff\xff.",
        b"NNa.",
        b"}(NNNu.",
        b"NN\x93.",
    ],
)
def test_damaged_pickles_are_refused(data):
    with pytest.raises(DataError):
        loads(data)


def peak_of(data: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            loads(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMBS = {
    "a length that is not there": pickle.BINBYTES8 + (2**40).to_bytes(8, "little") + b"abc.",
    "a buffer that is not there": pickle.BYTEARRAY8 + (2**40).to_bytes(8, "little") + b"abc.",
    "a frame that is not there": pickle.FRAME + (2**60).to_bytes(8, "little") + b".",
    "a large index of the memo": pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.POP + b".",
    "a billion references to one value": b"]"
    + b"(" * 9
    + b"]q\0"
    + b"".join(b"(" + b"h\0" * 10 + b"t\x94" for _ in range(9)),
    "a long line": b"c" + b"a" * 1000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_bombs_stay_small(name):
    assert peak_of(BOMBS[name]) < 100_000


def test_one_piece_of_bytes_is_no_thousand_arrays():
    """All arrays refer to one buffer of a megabyte."""
    piece = pickle.BINBYTES + (10**6).to_bytes(4, "little") + bytes(10**6) + pickle.BINPUT + b"\0"
    size = pickle.BININT + (125_000).to_bytes(4, "little") + pickle.TUPLE1
    fill = AN_ARRAY + pickle.MARK + pickle.BININT1 + b"\1" + size + A_DTYPE + pickle.NEWFALSE + pickle.BINGET + b"\0"
    data = b"\x80\x04" + piece + (fill + pickle.TUPLE + pickle.BUILD) * 1000 + b"."
    assert peak_of(data) < 4 * 10**6


def test_the_values_are_counted(monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 1000)
    assert loads(b"N" * 999 + b".") is None
    with pytest.raises(DataError, match="more than 1000 values"):
        loads(b"N" * 1000 + b".")


def test_deep_nesting_ends():
    found = loads(pickle.EMPTY_LIST * 20_000 + pickle.APPEND * 19_999 + b".")
    assert len(found) == 1


def test_reading_imports_nothing():
    """Neither NumPy's pickle helpers nor names of a file are called."""
    code = (
        "import sys; from waymax_sim.datasets.encoding import safe_pickle; before = set(sys.modules)\n"
        "try: safe_pickle.loads(b'\\x80\\x04\\x8c\\x04this\\x8c\\x01s\\x93.')\n"
        "except ValueError as error: print(error, sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "refers to this.s" in run.stdout and "[]" in run.stdout
