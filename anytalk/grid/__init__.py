"""Lays out the token grid (special tokens, delay patterns, prompts) and reads sound files. Imports no torch."""
