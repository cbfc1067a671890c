"""What goes wrong."""

from .generated.models import NewMessage, Problem


class HeadwaterError(Exception):
    """Anything below."""


class Unavailable(HeadwaterError):
    """The service did not answer in time, or only that it cannot now. An append may have been written: `messages`, which have
    their ids, are written once if they are sent again."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.messages: list[NewMessage] = []


class Refused(HeadwaterError):
    """The service has refused, and would again: `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail}")
        self.problem = problem

    @property
    def type(self) -> str:
        """`/problems/…`."""
        return str(self.problem.type_.value)


class Conflict(Refused):
    """The stream has another version than the expected one: `problem.current_version`."""
