"""The one training loop and everything around it; the only layer that knows accelerate."""
