"""Import of TorchRec TorchScript archives, read as data: no torch, no TorchRec, no code of theirs is run."""

from narsil_graph.model.torchrec.importer import import_archive
from narsil_graph.model.torchrec.pickled import ImportRefused

__all__ = ["ImportRefused", "import_archive"]
