"""The version of fastreg."""

__version__ = "0.1.0"
