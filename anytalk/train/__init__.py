"""Staged training: stages as data, freezing by part name, losses, the loop, checkpoints, curves."""
