"""What endpoints declare: who calls and the services, in one parameter."""

from typing import Annotated

from fastapi import Depends

from app.composition import Services
from app.dependencies import RequestContext, process_services, request_context

Context = Annotated[RequestContext, Depends(request_context)]
"""The caller, authenticated, and the services. One dependency, for each costs a request its time."""

ProcessServices = Annotated[Services, Depends(process_services)]
"""The services, on routes that need no credentials."""
