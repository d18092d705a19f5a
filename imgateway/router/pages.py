"""``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json``: what needs no key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from imgateway.router.openapi import OPENAPI_JSON
from imgateway.router.routes import Call, Page, Route
from imgateway.router.schema import Health, NotReady, Ready

__all__ = ("Pages",)


class Pages:
    """Health, metrics, and the document of the whole API.

    :param health: (whether clients ask) → why it is not ready, empty if it is, and part → how it is.
    :param metrics: (the Accept header) → content type and page.
    :param document: called once all parts are there; True: as clients see the API.
    """

    def __init__(
        self,
        health: Callable[[bool], tuple[tuple[str, ...], dict[str, str]]],
        metrics: Callable[[str], tuple[str, bytes]],
        document: Callable[[bool], bytes],
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._document = document

    def routes(self) -> Sequence[Route]:
        def page(
            path: str, do: Callable[[Call], Any], summary: str, answers: Any, public: bool = True
        ) -> Route:
            return Route("GET", path, do, summary, "", answers, public=public)

        return [
            page("/healthz", lambda call: Health("alive"), "It lives.", {200: Health}),
            page("/readyz", self.ready, "Whether it can work.", {503: NotReady, 200: Ready}),
            page("/metrics", self.metrics, "What Prometheus reads.", {200: "text/plain"}, public=False),
            page("/openapi.json", self.openapi, "This document.", {200: OPENAPI_JSON}),
        ]

    def ready(self, call: Call) -> Ready:
        """Each part, and why it is not ready; to clients only whether: reasons name hosts and files."""
        reasons, parts = self._health(call.public)
        return NotReady(False, reasons, parts) if reasons else Ready(True, (), parts)

    def metrics(self, call: Call) -> Page:
        """The metrics."""
        return Page(*self._metrics(call.accept))

    def openapi(self, call: Call) -> Page:
        """The OpenAPI document."""
        return Page(OPENAPI_JSON, self._document(call.public))
