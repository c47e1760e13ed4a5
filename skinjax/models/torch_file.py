"""What `torch.save` writes, read without PyTorch: arrays alone; pickled code is never run.

Its pickle tells of a tensor only which elements of which storage it has; the storages' bytes are
beside it. Since PyTorch 1.6 a file is a zip archive of `NAME/data.pkl` and `NAME/data/KEY`. Older
ones are five pickles, one after the other (a magic number, the version, facts of the machine, the
content, the storages' keys), and then the storages, each after its number of elements.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from skinjax.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_BFLOAT16 = "torch.BFloat16Storage"
_DTYPES: dict[str, np.dtype] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    _BFLOAT16: np.dtype(np.uint16),  # the upper half of a float32's bits
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote, in its zip format or in the one before.

    Of a training checkpoint, the mapping under its `state_dict` is read.

    Args:
        path: the file, `.pth` or `.pt`.

    Returns:
        The arrays by name, of the tensors' shapes and types; bfloat16 ones as float32. They cannot
        be written to: tensors that shared memory do so still.

    Raises:
        UserError: the file is missing, truncated or damaged, holds something other than tensors,
            or names what is neither a tensor nor a dict.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        content, storages = _read_zip(path) if zipped else _read_legacy(path)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict) or not content:
            raise UserError(f"{path} holds no state dict: save the model's state_dict() alone.")
        odd = sorted(
            str(name)
            for name, value in content.items()
            if not (isinstance(name, str) and isinstance(value, _Tensor))
        )
        if odd:
            raise UserError(
                f"{path} holds more than arrays ({', '.join(odd[:20])}): save the model's "
                "state_dict() alone."
            )
        return {name: _view(tensor, storages[tensor.key]) for name, tensor in content.items()}
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        why = str(error) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as a PyTorch state dict ({why}): fetch it again, it may be "
            "truncated, or save only its state_dict()."
        ) from error


class _Tensor(NamedTuple):
    """Which elements of the storage `key` a tensor has; offset and stride count elements."""

    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Storage(NamedTuple):
    type: str  # a key of _DTYPES
    num_elements: int


class _Dict(dict):
    """Stands for an OrderedDict, without the attribute that holds the modules' versions."""

    def __setstate__(self, state: Any) -> None:
        # Without this method pickle would set what attributes the file likes, those of the class
        # too; with it, a file that tries the latter lacks an argument.
        pass


# These two have no defaults and keep nothing: a file that sets their attributes changes nothing.


def _rebuild_tensor(
    key: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> _Tensor:
    if min((offset, *size, *stride)) < 0:
        raise ValueError("a tensor has negative sizes")
    _requires_grad, _hooks, *metadata = rest
    if any(metadata):  # that the values are to be negated, for one
        raise ValueError("a tensor has properties besides its shape")
    return _Tensor(key, offset, size, stride)


def _rebuild_parameter(data: Any, _requires_grad: bool, _hooks: Any) -> Any:
    return data


# All that a file may name. Storage types stand for themselves: they are not called.
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
} | {name: name for name in _DTYPES}


class _Unpickler(pickle.Unpickler):
    """Reads one pickle of a file; `storages` are those that it told of."""

    def __init__(self, file: IO[bytes], path: Path):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        found = _GLOBALS.get(f"{module}.{name}")
        if found is None:
            raise UserError(
                f"{self._path} names {module}.{name}, and pickled code is never run: save the "
                "model's state_dict() alone."
            )
        return found

    def persistent_load(self, pid: Any) -> str:
        tag, type_, key, _device, num_elements, *view = pid
        # Views of storages are of PyTorch 0.3 and before.
        if tag != "storage" or type_ not in _DTYPES or any(view):
            raise ValueError(f"{tag} {key} is no storage")
        storage = _Storage(type_, num_elements)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is told in two ways")
        return key


def _read_zip(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The content, with a `_Tensor` for each tensor, and the storages by their keys."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        root = archive.namelist()[0].partition("/")[0]
        unpickler = _Unpickler(io.BytesIO(archive.read(f"{root}/data.pkl")), path)
        content = unpickler.load()
        # Files older than this entry are of little-endian machines.
        order = f"{root}/byteorder"
        big_endian = order in names and archive.read(order) == b"big"
        storages = {}
        for key, storage in unpickler.storages.items():
            data = archive.read(f"{root}/data/{key}")  # checks its sum
            if len(data) != storage.num_elements * _DTYPES[storage.type].itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes")
            storages[key] = _elements(storage, data, 0, big_endian)
    return content, storages


def _read_legacy(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Like `_read_zip`."""
    data = path.read_bytes()
    file = io.BytesIO(data)
    if _Unpickler(file, path).load() != _MAGIC or _Unpickler(file, path).load() != _VERSION:
        raise ValueError("it does not begin as torch.save begins")
    _Unpickler(file, path).load()  # facts of the machine; storages are always little-endian
    unpickler = _Unpickler(file, path)
    content = unpickler.load()
    storages = {}
    for key in _Unpickler(file, path).load():
        storage = unpickler.storages[key]
        num_elements = int.from_bytes(file.read(8), "little")
        if num_elements != storage.num_elements:
            raise ValueError(f"storage {key} has {num_elements} elements")
        storages[key] = _elements(storage, data, file.tell(), big_endian=False)
        file.seek(num_elements * _DTYPES[storage.type].itemsize, io.SEEK_CUR)
    return content, storages


def _elements(storage: _Storage, data: bytes, start: int, big_endian: bool) -> np.ndarray:
    """A storage as a flat array of the machine's byte order, from where it starts in the bytes."""
    dtype = _DTYPES[storage.type]
    stored = dtype.newbyteorder(">" if big_endian else "<")
    elements = np.frombuffer(data, stored, storage.num_elements, start)  # not over the end
    elements = elements.astype(dtype, copy=False)
    if storage.type == _BFLOAT16:
        elements = (elements.astype(np.uint32) << 16).view(np.float32)
    return elements


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """The tensor's elements, none of which may lie outside the storage."""
    steps = zip(tensor.size, tensor.stride, strict=True)
    last = tensor.offset + sum((length - 1) * stride for length, stride in steps)
    if 0 not in tensor.size and last >= storage.size:
        raise ValueError("a tensor reaches over the end of its storage")
    strides = [stride * storage.itemsize for stride in tensor.stride]
    return as_strided(storage[tensor.offset :], tensor.size, strides, writeable=False)
