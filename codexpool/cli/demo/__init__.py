"""`codexpool demo`: what happens when a token dies, on a stand-in for the backend."""
