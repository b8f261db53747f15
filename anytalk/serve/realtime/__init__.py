"""The Realtime protocol: one session per WebSocket."""
