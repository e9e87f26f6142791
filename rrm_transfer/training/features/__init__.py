"""The cache of a frozen teacher's answers: its key, its shards, how it is filled."""
