"""Weights files that anybody may have written, read without running anything in them."""
