"""Read training rows, voice their texts, and turn them into grids and batches."""
