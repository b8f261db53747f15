"""Training rows: reading manifests, voicing text, and turning rows into grids and batches."""
