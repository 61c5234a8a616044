# Aliases of the one script; see ./dev help.
.PHONY: setup run demo test check env lock help
setup run demo test check env lock help:
	@./dev $@
