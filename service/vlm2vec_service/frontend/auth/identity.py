"""The identity of a caller: its name, and what it may do."""

from dataclasses import dataclass

from vlm2vec_service.errors import ForbiddenError, listed

SCOPES = ("embed", "adapters:read", "adapters:write")
"""The rights of callers: to embed and rank; to see adapter versions; to change adapter versions."""


@dataclass(frozen=True)
class Identity:
    """A caller as its credential shows it.

    ``name`` is ``key:NAME``, ``certificate:NAME`` or ``jwt:SUBJECT``, so that no kind can pass for
    another; empty for a caller without credential, who goes by its address. No ``models`` means
    all. Rates are for each second: None leaves them to the server, 0 is no limit.
    """

    name: str
    scopes: frozenset[str]
    models: frozenset[str] = frozenset()
    requests_per_second: float | None = None
    tokens_per_second: float | None = None

    def check_scope(self, scope: str) -> None:
        """Raises `ForbiddenError` unless the caller has ``scope``; an empty one everybody has."""
        if scope and scope not in self.scopes:
            raise ForbiddenError(
                f"{self.name} lacks the scope {scope}; it has {listed(self.scopes) or 'none'}"
            )

    def may_use(self, model: str) -> bool:
        """Whether the caller may use ``model``."""
        return not self.models or model in self.models

    def check_model(self, model: str) -> None:
        """Raises `ForbiddenError` unless the caller may use ``model``."""
        if not self.may_use(model):
            raise ForbiddenError(
                f"{self.name} may not use model {model!r}; it may use {listed(self.models)}"
            )


ANYONE = Identity("", frozenset(SCOPES))
"""Every caller, where no credentials are asked for."""
