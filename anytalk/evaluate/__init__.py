"""Measure how well a talker hears and speaks, and what it kept of its language model."""
