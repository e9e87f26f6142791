"""Robust representation matching: a robust teacher's representation in any timm classifier."""

__version__ = "0.1.0"
