"""Prepares written text to be read aloud, by rules, normalising and rewriting. It is for English only."""
