"""Measures of what a talker hears and says."""
