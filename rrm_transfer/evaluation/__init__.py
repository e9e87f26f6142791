"""Clean and robust accuracy of a model, and signs of masked gradients; nothing of where models come from."""
