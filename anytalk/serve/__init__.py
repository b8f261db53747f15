"""Serve a talker by the OpenAI Realtime protocol, by HTTP endpoints and on a web page."""
