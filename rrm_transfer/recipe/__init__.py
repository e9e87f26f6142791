"""Recipes: what a run does, as data."""
