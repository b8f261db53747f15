"""The HTTP endpoints, the web page, and the connections that they come over."""
