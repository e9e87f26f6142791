"""What a run will cost, measured or estimated before it starts."""
