"""`python -m app`: the `articurated` command."""

from app.cli import main

main()
