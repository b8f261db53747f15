"""Train in stages: recipes as data, freezing by part name, losses, the loop, checkpoints and curves."""
