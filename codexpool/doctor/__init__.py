"""What `codexpool doctor` looks at: one module per area, each of which gives findings. Pure where it can be."""
