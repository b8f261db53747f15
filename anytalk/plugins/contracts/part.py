"""Defines what all parts have in common. Imports no torch."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from anytalk.errors import PluginError
from anytalk.plugins.components import BuildContext, Options

if TYPE_CHECKING:
    from anytalk.plugins.contracts.losses import Loss


class _Complete(ABCMeta):
    """Refuses to build parts that lack an attribute of :attr:`Part.needs`."""

    needs: tuple[str, ...]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        built = super().__call__(*args, **kwargs)
        missing = [name for name in cls.needs if not hasattr(built, name)]
        if missing:
            raise PluginError(
                f"{cls.__name__} was built without {', '.join(missing)}",
                "set each in the class or in __init__; the contract says what they mean",
            )
        return built


class Part(metaclass=_Complete):
    """The base class of everything that the registry builds."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Attributes that every built part must have, set in the class or in ``__init__``."""
    Options: ClassVar[type[Options]] = Options
    licence: str = "unknown"
    """The SPDX name of the licence of the weights or the engine, which ``anytalk info`` shows."""

    @classmethod
    @abstractmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build the part from its own validated options.

        Raises:
            AnytalkError: the weights can't be found, or the context doesn't fit.
        """

    def losses(self) -> Sequence[Loss]:
        """Return this part's losses, which a stage can name like those of the core."""
        return ()
