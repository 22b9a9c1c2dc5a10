"""The version of the client, which the package's metadata is made with, too."""

__version__ = "0.1.0"
