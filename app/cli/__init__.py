"""The `articurated` command, one module per group of commands."""
