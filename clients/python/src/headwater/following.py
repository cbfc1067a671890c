"""What a follower gets."""

from dataclasses import dataclass

from .generated.models import AggregatedMessage, CaughtUpEvent, FellBehindEvent, Message, TrimmedEvent
from .transport import Event


@dataclass
class Followed:
    """An event of what is followed: `message`, `caught-up`, `fell-behind` or `trimmed`. Kept together with what was made of
    the message, `cursor` is where to go on (`last_event_id`)."""

    name: str
    cursor: str
    data: Message | AggregatedMessage | CaughtUpEvent | FellBehindEvent | TrimmedEvent

    @property
    def message(self) -> Message:
        """The message of a `message`, whether it came in a partition or not."""
        if isinstance(self.data, AggregatedMessage):
            return self.data.message
        if isinstance(self.data, Message):
            return self.data
        raise AttributeError(f"{self.name} has no message")


def followed(event: Event) -> Followed | None:
    """What the caller is told of an event; nothing of heartbeats and connections."""
    match event.name:
        case "message":
            model = AggregatedMessage if "aggregated_stream" in event.data else Message
            return Followed(event.name, event.cursor, model.from_dict(event.data))
        case "caught-up":
            return Followed(event.name, event.cursor, CaughtUpEvent.from_dict(event.data))
        case "fell-behind":
            return Followed(event.name, event.cursor, FellBehindEvent.from_dict(event.data))
        case "trimmed":
            return Followed(event.name, event.cursor, TrimmedEvent.from_dict(event.data))
    return None
