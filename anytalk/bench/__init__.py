"""Measures speed: of answers and their parts, and of training; and how exact faster arithmetic is."""
