"""The engine and the command line of narsil-graph. Importing this package loads no torch."""

__version__ = "0.1.0"
