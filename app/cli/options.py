"""Options that several verbs take, and what they do."""

from typing import Annotated

import typer

AllowDevelopmentSecrets = Annotated[
    bool,
    typer.Option(
        "--allow-development-secrets",
        help="Allow an address that other machines can reach, although the development secrets are public.",
    ),
]

ApiWorkers = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Processes that answer HTTP.", show_default="2, or 1 where memory is short"),
]


def allow_secrets(*, development: bool) -> None:
    """Set ALLOW_DEVELOPMENT_SECRETS for this process and its children when the option is given."""
    import os

    from app.config import get_settings

    if development:
        os.environ["ALLOW_DEVELOPMENT_SECRETS"] = "true"
        get_settings.cache_clear()
