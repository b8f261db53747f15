"""First-party backbones. `plugin.py` names them; each lives in a file of its own."""
