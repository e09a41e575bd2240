"""The ways to look at a trace: header table, story, differences."""
