"""What became of each request, kept in memory, and the ways to look at it."""
