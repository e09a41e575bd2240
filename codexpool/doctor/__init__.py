"""The checks of `codexpool doctor`: a module per area, with a function ``findings`` that only reads."""
