"""The zip of a TorchScript archive: its members, its module tree, its tensors."""

import math
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.torchrec.pickled import ImportRefused, Record, Tensor, read_pickle

COMPRESSED_BYTES_MAX = 16 * 2**20
# The bit of a zip member's flags.
ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class Archive:
    """An open TorchScript archive; all its members lie under ``prefix``."""

    members: zipfile.ZipFile
    prefix: str

    def read(self, name: str) -> bytes:
        """The bytes of one member, against its checksum. Raises ImportRefused if there is none."""
        try:
            info = self.members.getinfo(self.prefix + name)
        except KeyError:
            raise ImportRefused(f"it has no member {name}") from None
        # TorchScript compresses only code; a bound on the rest leaves no room for a decompression bomb.
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > COMPRESSED_BYTES_MAX:
            raise ImportRefused(f"its member {name} unpacks to more than {COMPRESSED_BYTES_MAX} bytes")
        return self.members.read(info)

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
        try:
            return np.frombuffer(raw, storage.dtype)[tensor.begin : end].reshape(tensor.shape)
        except (ValueError, OverflowError):
            raise ImportRefused(f"the tensor in storage {storage.key} has an impossible shape") from None


@contextmanager
def open_archive(path: Path) -> Generator[Archive]:
    """The archive at ``path``. Raises ImportRefused for a missing, damaged or foreign file, also while it is read."""
    try:
        with zipfile.ZipFile(path) as members:
            archive = Archive(members, _prefix(members))
            _check_byte_order(archive)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
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
    if any(info.flag_bits & ENCRYPTED for info in members.infolist()):
        raise ImportRefused("it is encrypted")
    return prefix


def _check_byte_order(archive: Archive) -> None:
    # The member is younger than the format; archives without it were written on little-endian machines.
    if f"{archive.prefix}byteorder" in archive.members.namelist() and (order := archive.read("byteorder")) != b"little":
        raise ImportRefused(f"its numbers are {order[:16].decode(errors='replace')}-endian, want little")


def _is_contiguous(tensor: Tensor) -> bool:
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
