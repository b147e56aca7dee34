"""The zip of a TorchScript archive: its members, its module tree, its tensors."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.torchrec.pickled import ImportRefused, Record, Tensor, read_pickle


@dataclass(frozen=True, slots=True)
class Archive:
    """An open TorchScript archive; all its members lie under ``prefix``."""

    members: zipfile.ZipFile
    prefix: str

    def read(self, name: str) -> bytes:
        """The bytes of one member, against its checksum. Raises ImportRefused if there is none."""
        try:
            return self.members.read(self.prefix + name)
        except KeyError:
            raise ImportRefused(f"it has no member {name}") from None

    def root(self) -> Record:
        """The scripted module that was saved."""
        root = read_pickle(self.read("data.pkl"))
        if not isinstance(root, Record):
            raise ImportRefused("its data.pkl describes no module")
        return root

    def code(self, type_name: str) -> str:
        """The source text of the file that holds a scripted class. It is never run."""
        try:
            return self.read(f"code/{type_name.rpartition('.')[0].replace('.', '/')}.py").decode()
        except UnicodeDecodeError:
            raise ImportRefused(f"the code of {type_name} is not text") from None

    def array(self, tensor: Tensor) -> NDArray[np.generic]:
        """The values of a tensor, read-only. Raises ImportRefused when they are not all there."""
        storage = tensor.storage
        raw = self.read(f"data/{storage.key}")
        if len(raw) != storage.count * storage.dtype.itemsize:
            raise ImportRefused(
                f"its storage {storage.key} has {len(raw)} bytes, "
                f"its pickle states {storage.count * storage.dtype.itemsize}"
            )
        end = tensor.begin + math.prod(tensor.shape)
        if end > storage.count:
            raise ImportRefused(f"a tensor reaches to value {end} of the {storage.count} in storage {storage.key}")
        if not _is_contiguous(tensor):
            raise ImportRefused(f"the tensor in storage {storage.key} is not contiguous")
        return np.frombuffer(raw, storage.dtype)[tensor.begin : end].reshape(tensor.shape)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive at ``path``. Raises ImportRefused for a missing, damaged or foreign file, also while it is read."""
    try:
        with zipfile.ZipFile(path) as members:
            yield Archive(members, _prefix(members))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ImportRefused(f"it is not a zip archive or is damaged ({error or type(error).__name__})") from None
    except OSError as error:
        raise ImportRefused(f"it cannot be read ({error.strerror or error})") from None


def _prefix(members: zipfile.ZipFile) -> str:
    names = members.namelist()
    prefix = names[0].partition("/")[0] + "/" if names else "/"
    # A plain torch.save file has a data.pkl too, but no code and no constants.
    for name in ("data.pkl", "constants.pkl"):
        if prefix + name not in names:
            raise ImportRefused(f"it is not a TorchScript archive: it has no {name}")
    if len(set(names)) != len(names):
        raise ImportRefused("it is damaged: two of its members have the same name")
    # TorchScript stores its members plainly; refusing the rest leaves no room for a decompression bomb.
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in members.infolist()):
        raise ImportRefused("it is not a TorchScript archive: its members are compressed or encrypted")
    # The member is younger than the format; archives without it were written on little-endian machines.
    if prefix + "byteorder" in names and (order := members.read(prefix + "byteorder")) != b"little":
        raise ImportRefused(f"its numbers are {order.decode(errors='replace')}-endian, want little")
    return prefix


def _is_contiguous(tensor: Tensor) -> bool:
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
