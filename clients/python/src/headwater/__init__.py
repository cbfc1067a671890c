"""A client of Headwater: what is generated from its OpenAPI document, and the loops that nobody should have to write."""

from .consuming import Park
from .errors import Conflict, HeadwaterError, Refused, Unavailable
from .following import Followed
from .generated.models import AppendResult, Message, NewMessage, Problem
from .service import Headwater
from .transport import Closed

__all__ = [
    "AppendResult",
    "Closed",
    "Conflict",
    "Followed",
    "Headwater",
    "HeadwaterError",
    "Message",
    "NewMessage",
    "Park",
    "Problem",
    "Refused",
    "Unavailable",
]
