"""First-party encoders, adapters, heads, codecs, engines, tasks and recipes; `plugin.py` names them."""
