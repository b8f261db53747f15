"""Holds the first-party backbones. `plugin.py` names them; each has its own file."""
