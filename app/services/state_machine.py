"""The state machines, under the path that other programs import; they are defined in `workflow`."""

from app.services.workflow.state_machine import ORDER_TRANSITIONS, RETURN_TRANSITIONS, StateMachine

__all__ = ["ORDER_TRANSITIONS", "RETURN_TRANSITIONS", "StateMachine"]
