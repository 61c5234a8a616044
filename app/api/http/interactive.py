"""`/docs` and `/redoc`: the API to read and to try in a browser, without internet (requirement DOC).

FastAPI's own pages load their code from elsewhere and stay blank where that cannot be reached. Here it comes from a
package (`fastapi-offline`), of which only the files are used.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import BaseRoute, Route

from app import __version__
from app.utils.exceptions import NotFoundError

ASSETS = "/docs-assets"
FILES = frozenset({"favicon.png", "redoc.standalone.js", "swagger-ui-bundle.js", "swagger-ui.css"})
_TITLE = f"ArtiCurated {__version__}"
_OPENAPI = "/openapi.json"
_ICON = f"{ASSETS}/favicon.png"


def routes() -> list[BaseRoute]:
    """Return the two pages and what they load."""
    return [
        Route("/docs", _to_try, include_in_schema=False),
        Route("/redoc", _to_read, include_in_schema=False),
        Route(f"{ASSETS}/{{name}}", _asset, include_in_schema=False),
    ]


async def _to_try(_: Request) -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url=_OPENAPI,
        title=_TITLE,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=_ICON,
        swagger_ui_parameters={"docExpansion": "list", "defaultModelsExpandDepth": 0, "persistAuthorization": True},
    )


async def _to_read(_: Request) -> HTMLResponse:
    return get_redoc_html(
        openapi_url=_OPENAPI,
        title=_TITLE,
        redoc_js_url=f"{ASSETS}/redoc.standalone.js",
        redoc_favicon_url=_ICON,
        with_google_fonts=False,
    )


async def _asset(request: Request) -> FileResponse:
    name = request.path_params["name"]
    if name not in FILES:
        raise NotFoundError("There is nothing at this address.")
    return FileResponse(_folder() / name)


@cache
def _folder() -> Path:
    """Where the package has its files; it is looked for, not imported.

    Raises:
        RuntimeError: it is not installed.
    """
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise RuntimeError("the package fastapi-offline is missing: run `./dev setup`")
    return Path(found.origin).parent / "static"
