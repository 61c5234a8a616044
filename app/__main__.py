"""`python -m app`: the `articurated` command."""

from app.cli.main import main

main()
