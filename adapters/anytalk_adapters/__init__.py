"""Contains the first-party parts around the backbone, data sources and recipes; `plugin.py` registers them."""
