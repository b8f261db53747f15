"""The token grid: special tokens, delay patterns, prompts, and sound files. Pure arithmetic, no torch."""
