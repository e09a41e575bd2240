"""One request's way through mitmproxy: all request code that knows mitmproxy."""
