"""Serve the HTTP endpoints and the web page, and end connections of clients that don't respond."""
