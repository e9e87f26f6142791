"""One run from recipe to finished folder, and one evaluation of it; nothing that people read."""
