"""The embedded default: servers from wheels, and the supervisor of the whole system.

It is apart from the layers: it imports `app.config` alone, and only `app.cli.main` and the tests import it.
"""
