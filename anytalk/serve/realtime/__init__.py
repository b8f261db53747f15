"""Serve the Realtime protocol: one session per WebSocket or call."""
