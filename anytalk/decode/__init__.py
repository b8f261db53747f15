"""Generates answers from prompts: sampling, the decoding loop, and the session that streams text and sound."""
