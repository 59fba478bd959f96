"""What a run can invoke, as far as a step client has to know it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Invocable(Generic[In, Out]):
    """A function by its id and its types; :class:`ironflow.Function` is what there is of it.

    Attributes:
        id: names it in the namespace.
        input_type: what ``ctx.event.data`` is decoded into; ``Any`` for plain JSON.
        output_type: what a caller gets the output decoded into; ``Any`` for plain JSON.

    """

    id: str
    input_type: Any
    output_type: Any
