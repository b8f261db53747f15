"""A talker as a server: the OpenAI Realtime protocol over WebSocket, the HTTP endpoints beside it, and a web page."""
