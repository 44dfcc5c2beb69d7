"""A witness that is a folder of an HTTPS server."""

from __future__ import annotations

from im_attr_audit.evidence.https import BadUrl, HttpFailed, Reply, check_url, request
from im_attr_audit.evidence.witness import MOST_BYTES, BadTarget, Witness, file_name

#: More checkpoints than a file's name can number.
_MOST = 10**12


class HttpsWitness(Witness):
    """A server that takes ``PUT`` of new files: WebDAV, an artifact repository."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        try:
            check_url(target)
        except BadUrl as error:
            raise BadTarget(str(error)) from None
        self._base = target.rstrip("/") + "/"

    def sizes(self) -> list[int]:
        """Found without a listing, which HTTP does not define: sizes have no gaps."""
        least, beyond = 0, 1
        while self._content(file_name(beyond)) is not None:
            least, beyond = beyond, beyond * 2
            if beyond > _MOST:
                raise self._failed("it returns something for each name, so it is not a witness")
        while beyond - least > 1:
            middle = (least + beyond) // 2
            if self._content(file_name(middle)) is None:
                beyond = middle
            else:
                least = middle
        return list(range(1, least + 1))

    def _content(self, name: str) -> bytes | None:
        reply = self._ask("GET", name)
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise self._failed(f"{name} is not returned (HTTP {reply.status})")
        return reply.body

    def _create(self, name: str, content: bytes) -> bool:
        reply = self._ask("PUT", name, content)
        if reply.status in (409, 412):
            return False
        if not 200 <= reply.status < 300:
            raise self._failed(f"{name} is not taken (HTTP {reply.status})")
        return True

    def write(self, size: int, content: bytes) -> None:
        """Read before and after: not every server heeds ``If-None-Match`` or keeps what it took."""
        if self._content(file_name(size)) is None:
            super().write(size, content)
        if self._content(file_name(size)) != content:
            raise self._conflict(size)

    def _ask(self, method: str, name: str, body: bytes = b"") -> Reply:
        headers = {"Accept-Encoding": "identity"}
        if method == "PUT":
            headers |= {"If-None-Match": "*", "Content-Type": "application/json"}
        try:
            return request(method, self._base + name, body=body, headers=headers, most=MOST_BYTES)
        except HttpFailed as error:
            raise self._failed(str(error)) from None
