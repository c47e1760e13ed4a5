"""PyTorch's files, of both formats: made here opcode by opcode, and by PyTorch where it is."""

import pickle
import sys
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from skinjax.errors import UserError
from skinjax.models.pretrained import load_torch_state_dict
from skinjax.models.torch_file import read_state_dict

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
FORMATS = ["zip", "legacy"]


# ---- A writer of both formats --------------------------------------------------------------------


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Global
    arguments: tuple


class Persistent(NamedTuple):
    id: tuple


class State(NamedTuple):
    value: Any
    state: Any


ORDERED_DICT = Global("collections", "OrderedDict")
TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
DOUBLE = Global("torch", "DoubleStorage")


def opcodes(value: Any) -> bytes:
    match value:
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return opcodes(function) + opcodes(arguments) + b"R"
        case Persistent(id):
            return opcodes(id) + b"Q"
        case State(inner, state):
            return opcodes(inner) + opcodes(state) + b"b"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            items = [opcodes(item) for pair in value.items() for item in pair]
            return b"}(" + b"".join(items) + b"u"
    return pickle.dumps(value, protocol=2)[2:-1]


def dumps(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def storage(key: str, array: np.ndarray, count: int | None = None) -> Persistent:
    kind = Global("torch", STORAGES[array.dtype.name])
    return Persistent(("storage", kind, key, "cuda:0", array.size if count is None else count))


def tensor(stored: Any, size: tuple, stride: tuple, offset: int = 0, *more: Any) -> Call:
    return Call(TENSOR, (stored, offset, size, stride, False, Call(ORDERED_DICT, ()), *more))


def whole(key: str, array: np.ndarray) -> Call:
    """A tensor of all of a storage."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return tensor(storage(key, array), array.shape, strides)


def write(path, format_, content, storages, byteorder="little"):
    """Writes a file as torch.save would: `storages` are arrays by key."""
    order = {"little": "<", "big": ">"}[byteorder]
    raw = {
        key: array.view(np.uint16) if array.dtype.name == "bfloat16" else array
        for key, array in storages.items()
    }
    data = {
        key: array.astype(array.dtype.newbyteorder(order)).tobytes() for key, array in raw.items()
    }
    if format_ == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", dumps(content))
            archive.writestr("w/byteorder", byteorder)
            for key, stored in data.items():
                archive.writestr(f"w/data/{key}", stored)
        return path
    parts = [dumps(0x1950A86A20F9469CFC6C), dumps(1001), dumps({"little_endian": True})]
    parts += [dumps(content), dumps(list(data))]
    for key, stored in data.items():
        parts += [storages[key].size.to_bytes(8, "little"), stored]
    path.write_bytes(b"".join(parts))
    return path


def small(path, format_):
    """A file of two arrays, and these."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7, 8])}
    content = {name: whole(name, array) for name, array in arrays.items()}
    return write(path, format_, content, arrays), arrays


def assert_same(read, arrays):
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


# ---- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_", "byteorder"), [("zip", "little"), ("zip", "big"), ("legacy", "little")]
)
def test_every_type_is_read(tmp_path, format_, byteorder):
    values = np.array([[0, 1, 3], [100, 2, 0]])
    arrays = {name: values.astype(name) for name in STORAGES if name != "bfloat16"}
    half = np.array([1.5, -2.0, np.inf], ml_dtypes.bfloat16)
    content = {name: whole(name, array) for name, array in arrays.items()}
    content["bfloat16"] = whole("bfloat16", half)
    path = write(tmp_path / "w", format_, content, arrays | {"bfloat16": half}, byteorder)
    arrays["bfloat16"] = half.astype(np.float32)
    read = read_state_dict(path)
    assert_same(read, arrays)
    assert not any(array.flags.writeable for array in read.values())


@pytest.mark.parametrize("format_", FORMATS)
def test_tensors_are_views_of_storages(tmp_path, format_):
    base = np.arange(12, dtype=np.float32)
    stored, empty = storage("0", base), np.zeros(0, np.float32)
    content = {
        "rows": tensor(stored, (3, 4), (4, 1)),
        "transposed": tensor(stored, (4, 3), (1, 4)),
        "last": tensor(stored, (), (), 11),
        "expanded": tensor(stored, (5, 2), (0, 1), 10),
        "every other": tensor(stored, (1, 6), (10**6, 2), 1),
        "nothing": tensor(stored, (0, 7), (7, 1), 12),
        "empty": whole("1", empty),
        "parameter": Call(PARAMETER, (tensor(stored, (2,), (1,)), True, Call(ORDERED_DICT, ()))),
        "described": tensor(stored, (2,), (1,), 0, {}),
    }
    path = write(tmp_path / "w", format_, content, {"0": base, "1": empty})
    expected = {
        "rows": base.reshape(3, 4),
        "transposed": base.reshape(3, 4).T,
        "last": base[11],
        "expanded": np.tile(base[10:], (5, 1)),
        "every other": base[None, 1::2],
        "nothing": np.zeros((0, 7), np.float32),
        "empty": empty,
        "parameter": base[:2],
        "described": base[:2],
    }
    read = read_state_dict(path)
    assert_same(read, expected)
    assert np.shares_memory(read["rows"], read["transposed"])


@pytest.mark.parametrize("format_", FORMATS)
def test_a_training_checkpoint_gives_its_state_dict(tmp_path, format_):
    array = np.ones((2, 2), np.float16)
    # A module's state dict is an OrderedDict with an attribute, written as pairs by Python 2.
    weights = Call(ORDERED_DICT, ([("a", whole("0", array))],))
    weights = State(weights, {"_metadata": {"": {"version": 1}}, "items": None})
    for content in (weights, {"epoch": 3, "state_dict": weights, "optimizer": {"lr": 0.1}}):
        path = write(tmp_path / "w", format_, content, {"0": array})
        assert_same(read_state_dict(path), {"a": array})


def test_pytorch_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name, format_ in (("w.pth", "zip"), ("w.pt", "legacy")):
        path, arrays = small(tmp_path / name, format_)
        assert_same(load_torch_state_dict(path), arrays)


# ---- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "function",
    [
        Global("builtins", "eval"),
        Global("torch", "uint16"),
        Global("torch._utils", "_rebuild_tensor_v3"),
        Global("collections", "OrderedDict.fromkeys"),
    ],
    ids=".".join,
)
def test_pickled_code_is_not_run(tmp_path, format_, function):
    path = write(tmp_path / "w.pth", format_, {"a": Call(function, ("1",))}, {})
    with pytest.raises(UserError, match=rf"w.pth names {'.'.join(function)}, .* is never run"):
        read_state_dict(path)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_cannot_change_the_reader(tmp_path, format_):
    array = np.ones(2)
    weights = State(Call(ORDERED_DICT, ([("a", whole("0", array))],)), {"_metadata": {}})
    good = write(tmp_path / "good.pth", format_, weights, {"0": array})
    slots = {"__defaults__": (1, 2, 3), "__setstate__": None, "key": None}
    for target in (ORDERED_DICT, TENSOR, PARAMETER, DOUBLE, whole("0", array)):
        content = {"a": State(target, (None, slots))}
        with pytest.raises(UserError, match=r"w.pth"):
            read_state_dict(write(tmp_path / "w.pth", format_, content, {"0": array}))
        assert_same(read_state_dict(good), {"a": array})


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2, 2), (5, 1), 0),
        ((2,), (2**61,), 0),
        ((), (), 6),
        ((1,), (1,), -1),
        ((2,), (-1,), 3),
        ((-1,), (1,), 0),
        ((2, 3), (1,), 0),
        ((2.0,), (1,), 0),
        ((2,), (float("nan"),), 0),
        ((2**62,), (0,), 0),
        ((2**62, 0), (1, 1), 0),
        (3, 1, 0),
    ],
)
def test_nothing_outside_a_storage_is_read(tmp_path, format_, size, stride, offset):
    base = np.arange(6, dtype=np.float32)
    content = {"a": tensor(storage("0", base), size, stride, offset)}
    path = write(tmp_path / "w.pth", format_, content, {"0": base})
    with pytest.raises(UserError, match=r"w.pth cannot be read .* fetch it again, it may be"):
        read_state_dict(path)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        {"a": tensor(storage("0", np.zeros(6), count=5), (1,), (1,))},
        {"a": tensor(storage("0", np.zeros(6), count=-1), (1,), (1,))},
        {"a": tensor(storage("0", np.zeros(6), count=2**60), (1,), (1,))},
        {"a": tensor(storage("0", np.zeros(6)), (6,), (1,), 0, {"neg": True})},
        {"a": whole("0", np.zeros(6)), "b": whole("0", np.zeros(6, np.int64))},
        {"a": whole("1", np.zeros(6))},
        {"a": tensor("1", (1,), (1,))},
        {"a": Call(TENSOR, ("0",))},
        {"a": tensor(Persistent(()), (1,), (1,))},
        {"a": tensor(Persistent(("module", DOUBLE, "0", "cpu", 6)), (1,), (1,))},
        {"a": tensor(Persistent(("storage", "object", "0", "cpu", 6)), (1,), (1,))},
        {"a": tensor(Persistent(("storage", DOUBLE, "0", "cpu", 6, ("1", 0, 6))), (1,), (1,))},
        {"a": Call(ORDERED_DICT, (5,))},
    ],
)
def test_a_storage_that_is_not_what_is_told_is_refused(tmp_path, format_, content):
    path = write(tmp_path / "w.pth", format_, content, {"0": np.zeros(6)})
    with pytest.raises(UserError, match=r"w.pth cannot be read .* fetch it again"):
        read_state_dict(path)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no state dict: save the model's"),
        ({}, "no state dict: save the model's"),
        ({"state_dict": {}}, "no state dict: save the model's"),
        (whole("0", np.zeros(6)), "no state dict: save the model's"),
        (
            {"epoch": 1, "a": whole("0", np.zeros(6))},
            r"more than arrays \(epoch\): save the model's",
        ),
        ({1: whole("0", np.zeros(6))}, r"more than arrays \(1\)"),
        ({"a": {"b": whole("0", np.zeros(6))}}, r"more than arrays \(a\)"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, format_, content, words):
    storages = {"0": np.zeros(6)} if "Storage" in repr(content) else {}
    path = write(tmp_path / "w.pth", format_, content, storages)
    with pytest.raises(UserError, match=f"w.pth holds {words}"):
        read_state_dict(path)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_truncated_file_is_told_wherever_it_ends(tmp_path, format_):
    path, arrays = small(tmp_path / "w.pth", format_)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"w.pth cannot be read .* fetch it again"):
            read_state_dict(path)
    path.write_bytes(data)
    assert_same(read_state_dict(path), arrays)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_damaged_file_is_read_or_told(tmp_path, format_):
    path, arrays = small(tmp_path / "w.pth", format_)
    data = path.read_bytes()
    num_told = 0
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            read = read_state_dict(path)
        except UserError as error:
            assert "w.pth" in str(error)
            num_told += 1
        else:  # the old format has no sums; a zip's names and sizes have none either
            assert len(read) == len(arrays)
    assert num_told > len(data) / 2


def test_foreign_files_are_told(tmp_path):
    path = tmp_path / "w.pth"
    for content in (b"<html>", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", dumps({"a": 1}), dumps(1) * 5):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"w.pth cannot be read .* fetch it again"):
            read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "text")
    with pytest.raises(UserError, match=r"w.pth cannot be read .*data.pkl.* fetch it again"):
        read_state_dict(path)
    with pytest.raises(UserError, match=r"nothing.pth cannot be read"):
        read_state_dict(tmp_path / "nothing.pth")


# ---- PyTorch's own files -------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_what_pytorch_saves_is_read(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    tensors = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in STORAGES}
    base = torch.randn(4, 5)
    tensors |= {"slice": base[1:, ::2], "transposed": base.T, "expanded": base[:1].expand(7, 5)}
    tensors |= {"parameter": torch.nn.Parameter(base), "empty": torch.zeros(0, 3)}
    for content in (
        model.state_dict(),
        tensors,
        {"epoch": 3, "state_dict": tensors, "lr": [0.1]},
    ):
        path = tmp_path / "w.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert zipfile.is_zipfile(path) == zipped
        expected = {
            name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
            for name, value in content.get("state_dict", content).items()
        }
        assert_same(load_torch_state_dict(path), expected)
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"w.pth names torch.nn.modules.container.Sequential, "):
        load_torch_state_dict(path)
