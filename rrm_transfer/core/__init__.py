"""What every layer above shares: errors, registries, threat models, pixel space, randomness, files."""
