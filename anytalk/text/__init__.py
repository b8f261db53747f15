"""Makes written text fit to be read aloud: rules, normalising, rewriting. English only."""
