"""What all parts have in common. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from anytalk.plugins.components import BuildContext, Options


class Part(ABC):
    """Anything that the registry builds."""

    Options: ClassVar[type[Options]] = Options
    licence: str = "unknown"
    """SPDX name of the licence of the weights or the engine, for ``anytalk info``."""

    @classmethod
    @abstractmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Make the part from its own validated options.

        Raises:
            AnytalkError: weights that can't be found, or a context that doesn't fit.
        """
