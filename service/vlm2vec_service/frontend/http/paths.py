"""What is said to who asks for a path that is not there, or with a method that it has not."""

import difflib
from collections.abc import Iterable

from fastapi import APIRouter
from starlette.routing import Route

from vlm2vec_service.errors import NotFoundError
from vlm2vec_service.frontend.http.errors import RequestError

NEAR = 3
"""How many paths are named to who asks for another."""


class Paths:
    """The paths that there are, those of ``routers``."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        routes = [route for router in routers for route in router.routes]
        self._routes = [route for route in routes if isinstance(route, Route)]

    def missing(self, path: str) -> NotFoundError:
        """The error for a ``path`` that is not there, which names those that are like it."""
        known = sorted({route.path for route in self._routes})
        near = difflib.get_close_matches(path[:200], known, NEAR)
        # Clients put their own path behind a base URL, with /v1 or without.
        near += [one for one in known if one not in near and one.endswith(path) and len(path) > 1]
        there = f"there is {' and '.join(near[:NEAR])}" if near else "/docs lists those that are"
        error = NotFoundError(f"path: {path[:200]} is not there; {there}")
        error.field = "path"
        return error

    def wrong_method(self, path: str, method: str) -> RequestError:
        """The error for a ``method`` that the path has not, which says what it has."""
        routes = [route for route in self._routes if route.path_regex.match(path)]
        allowed = ", ".join(sorted({name for route in routes for name in route.methods or ()}))
        problem = f"{path[:200]} takes {allowed}, not {method}"
        return RequestError(405, "method", problem, {"allow": allowed})
