"""The one training loop, from a plan and an objective to trained weights; no recipe, no run folder."""
