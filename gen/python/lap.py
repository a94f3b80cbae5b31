"""LAP in plain Python: what a generated client leaves out, and enough to do without one.

Typed errors, retries that never do a thing twice, iterators over lists, event streams that resume, replies that survive a lost
connection. Standard library only, Python 3.9 or newer. A Client may be shared by threads; an iterator belongs to one.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, Iterator, Optional, Union

__all__ = [
    "Client", "Reply", "read_events", "APIError", "BadRequest", "Unauthorized", "NotFound", "Conflict", "PreconditionFailed",
    "RateLimited", "Unavailable", "TurnError",
]

__version__ = "0.1.0"  # of the specification; requests carry it as User-Agent

_API = "/api/v1/managed_agents"
_ANSWER_TIMEOUT = 60.0  # seconds until an answer begins
_QUIET_TIMEOUT = 45.0  # of an event stream; a heartbeat comes every 15 s
_FIRST_PAUSE, _MAX_PAUSE = 0.25, 8.0
_STEADY_AFTER = 2.0  # a stream that held so long got on
_MAX_ANSWER, _MAX_EVENT = 64 << 20, 16 << 20
_ENDS = ("turn.completed", "turn.failed", "turn.aborted")

_sleep = time.sleep
_clock = time.monotonic


class APIError(Exception):
    """An answer that is not a success. `code` is None if it was not the API that answered, but a proxy for instance."""

    def __init__(self, status: int, body: bytes, headers: Any) -> None:
        self.status = status
        self.code: Optional[str] = None
        self.details: list = []
        self.request_id: Optional[str] = headers.get("X-Request-Id")
        self.retry_after = _retry_after(headers.get("Retry-After"))  # seconds; 0: the answer does not say
        text = "the server answered %d %s" % (status, http.client.responses.get(status, ""))
        try:
            said = json.loads(body)
            self.code, self.details, self.request_id = said["code"], said["details"], said["request_id"]
            text = "; ".join([said["error"]] + ["%s: %s" % (d["field"], d["message"]) for d in self.details])
        except (ValueError, KeyError, TypeError):
            self.code, self.details = None, []
        super().__init__(text)


class BadRequest(APIError):
    """400: `details` names every violation."""


class Unauthorized(APIError):
    """401: the key is missing or wrong."""


class NotFound(APIError):
    """404: there is no such thing, or the session has ended (`session_not_ready`)."""


class Conflict(APIError):
    """409: not in the state that the thing is in."""


class PreconditionFailed(APIError):
    """412: it has changed since it was read (`If-Match`)."""


class RateLimited(APIError):
    """429: too many; `retry_after` says when to come again."""


class Unavailable(APIError):
    """503: not possible now."""


_TYPES = {400: BadRequest, 401: Unauthorized, 404: NotFound, 409: Conflict, 412: PreconditionFailed, 429: RateLimited, 503: Unavailable}


class TurnError(Exception):
    """Why a turn has no whole reply. It never runs again. `end` is completed, failed or aborted."""

    def __init__(self, end: str, name: str, message: str) -> None:
        self.end, self.name, self.message = end, name, message
        super().__init__(": ".join(["the turn failed"] + [t for t in (name, message) if t]))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None  # the key goes to no other server


class Client:
    """A server. Paths are those of the API, such as "/api/v1/skills"; bodies and answers are what JSON makes of them.

    retries       how often a request is sent again that was not answered, or was told to come again
    longest_wait  the longest Retry-After, in seconds, that is waited for; with a longer one the answer is an error at once
    patience      how long, in seconds, a stream that broke is opened again without getting on; None: for ever
    lost          called with the cause when a stream breaks, once until it goes on
    """

    def __init__(self, url: str, key: str, *, retries: int = 4, longest_wait: float = 60, patience: Optional[float] = 300,
                 lost: Optional[Callable[[Exception], None]] = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("the URL is not an http or https URL of a server")
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("the key is missing or has a character that no key has")
        self._url, self._key = url.rstrip("/"), key
        self._retries, self._longest_wait, self._patience, self._lost = retries, longest_wait, patience, lost
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __repr__(self) -> str:
        return "<LAP at %s>" % self._url

    # Requests

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Any = None, *, key: Optional[str] = None) -> Any:
        """The idempotency key is made for you; give one to repeat a request of another process."""
        return self.request("POST", path, body=body, headers={"Idempotency-Key": key or _new_key()})

    def patch(self, path: str, body: Any, *, if_match: Optional[str] = None) -> Any:
        return self.request("PATCH", path, body=body, headers={"If-Match": if_match} if if_match else None)

    def delete(self, path: str, **query: Any) -> Any:
        return self.request("DELETE", path, query=query)

    def request(self, method: str, path: str, *, query: Optional[dict] = None, body: Any = None, headers: Optional[dict] = None) -> Any:
        """The answer, None if it is empty. It is sent again if that may help and can do no harm."""
        unsure = False  # whether an answer was lost
        attempt = 0
        while True:
            try:
                with self._open(method, path, query, body, headers, _ANSWER_TIMEOUT) as res:
                    answer = res.read(_MAX_ANSWER + 1)
                    if len(answer) > _MAX_ANSWER or answer and "json" not in res.headers.get("Content-Type", ""):
                        raise ValueError("the server's answer is not one of LAP")
                    if res.length:  # it ended before that
                        raise http.client.IncompleteRead(answer, res.length)
                return json.loads(answer) if answer else None
            except (OSError, http.client.HTTPException, APIError) as err:
                if unsure and method == "DELETE" and getattr(err, "code", None) == "not_found" and not path.endswith("/skill"):
                    return None  # it was done, and only the answer lost
                passing, wait = _transient(err)
                unsure = unsure or _may_have_effect(err)
                if not passing or attempt >= self._retries or wait > self._longest_wait or unsure and method == "PATCH":
                    raise
                if method == "POST" and "Idempotency-Key" not in (headers or {}):
                    raise
            _sleep(wait + _backoff(attempt))
            attempt += 1

    def _open(self, method: str, path: str, query: Optional[dict], body: Any, headers: Optional[dict], timeout: float) -> Any:
        url = self._url + path
        given = {k: _text(v) for k, v in (query or {}).items() if v is not None}
        if given:
            url += "?" + urllib.parse.urlencode(given)
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        req = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        req.add_header("User-Agent", "lap-python/" + __version__)
        if data is not None:
            req.add_header("Content-Type", "application/json")
        req.add_unredirected_header("Authorization", "Bearer " + self._key)
        try:
            return self._opener.open(req, timeout=timeout)
        except urllib.error.HTTPError as err:
            with err:
                raise _TYPES.get(err.code, APIError)(err.code, err.read(1 << 20), err.headers) from None

    # Lists

    def rows(self, path: str, **query: Any) -> Iterator[dict]:
        """All rows of a list, page by page, which stays correct while rows are added. `limit` is that of a page."""
        query = {"limit": 200, "total": False, **query}
        while True:
            page = self.get(path, **query)
            yield from page["data"]
            if page["next_cursor"] is None:
                return
            query.pop("offset", None)
            query["cursor"] = page["next_cursor"]

    def agents(self, **query: Any) -> Iterator[dict]:
        return self.rows(_API + "/agents", **query)

    def sessions(self, **query: Any) -> Iterator[dict]:
        return self.rows(_API + "/sessions", **query)

    def skills(self, **query: Any) -> Iterator[dict]:
        return self.rows("/api/v1/skills", **query)

    def skill_versions(self, skill_id: str, **query: Any) -> Iterator[dict]:
        return self.rows("/api/v1/skills/%s/versions" % _quote(skill_id), **query)

    def messages(self, session_id: str, **query: Any) -> Iterator[dict]:
        return self.rows(_session(session_id) + "/messages", **query)

    # Events and messages

    def event_log(self, session_id: str, after: int = 0) -> Iterator[dict]:
        """The events after a cursor that have happened so far."""
        more = True
        while more:
            page = self.get(_session(session_id) + "/events", after=after, follow=False, limit=1000)
            yield from page["data"]
            after, more = page["next_after"], page["has_more"]

    def events(self, session_id: str, after: int = 0) -> Iterator[dict]:
        """The events after a cursor, each once and in order, and then those that happen, over streams that break or fall silent."""
        def stream(after: int) -> Any:
            return self._open("GET", _session(session_id) + "/events", {"after": after}, None, None, _QUIET_TIMEOUT)
        return self._follow(after, stream, lambda event: False)

    def turn(self, session_id: str, message: Union[str, dict], *, key: Optional[str] = None) -> Iterator[dict]:
        """Sends a message and yields the events of its turn to the end; Reply makes text of them.

        However often the connection is lost, the message is one turn. To go on after a crash of the program, call it again with the
        same key and message.
        """
        headers = {"Idempotency-Key": key or _new_key()}
        body = {"text": message} if isinstance(message, str) else message

        def stream(after: int) -> Any:
            return self._open("POST", _session(session_id) + "/message_stream", None, body, headers, _QUIET_TIMEOUT)
        return self._follow(0, stream, lambda event: event["type"] in _ENDS)

    def message(self, session_id: str, message: Union[str, dict], *, key: Optional[str] = None) -> dict:
        """Sends a message and returns its turn, ended: `status`, `info`, `parts`."""
        turn_id = None
        for event in self.turn(session_id, message, key=key):
            turn_id = event["turn_id"]
        return self.get("%s/turns/%s" % (_session(session_id), _quote(str(turn_id))))

    def _follow(self, after: int, stream: Callable[[int], Any], last: Callable[[dict], bool]) -> Iterator[dict]:
        begun, attempt, lost = _clock(), 0, False
        while True:
            opened: Optional[float] = None
            cause: Exception = ConnectionError("the stream ended")
            try:
                with stream(after) as lines:
                    opened = _clock()
                    for event in read_events(lines):
                        if event["seq"] <= after:
                            continue
                        after, begun, attempt, lost = event["seq"], _clock(), 0, False
                        yield event
                        if last(event):
                            return
            except (OSError, http.client.HTTPException, APIError) as err:
                cause = err
            if opened is not None and _clock() - opened > _STEADY_AFTER:
                begun, attempt, lost = _clock(), 0, False
            passing, wait = _transient(cause)
            if not passing or wait > self._longest_wait or self._patience is not None and _clock() - begun > self._patience:
                raise cause
            if not lost and self._lost:
                self._lost(cause)
            lost = True
            _sleep(wait + _backoff(attempt))
            attempt += 1


def read_events(stream: Any) -> Iterator[dict]:
    """The events of one stream of server-sent events, until it ends. An event that was cut off is left out."""
    while True:
        line = stream.readline(_MAX_EVENT + 1)
        if not line.endswith(b"\n"):
            if len(line) > _MAX_EVENT:
                raise ValueError("an event is too long")
            return
        if line.startswith(b"data: "):
            yield json.loads(line[len(b"data: "):])


class Reply:
    """The reply of one turn as its events come. `text` is what there is so far, its parts in lines of their own."""

    def __init__(self) -> None:
        self._texts: dict = {}  # by part, in order
        self._end: Optional[TurnError] = None

    @property
    def text(self) -> str:
        return "\n".join(self._texts.values())

    def add(self, event: dict) -> str:
        """Takes the next event and returns what text it brings, for those who show the reply as it comes."""
        data = event["data"]
        if event["type"] == "message.delta" and data.get("type") != "reasoning":
            return self._delta(data["part_id"], data["offset"], data["text"])
        if event["type"] == "message.part" and data["part"]["type"] == "text":
            return self._part(data["part"]["id"], data["part"].get("text") or "")
        if event["type"] in _ENDS:
            fault = (data.get("info") or {}).get("error") or {}
            end = event["type"][len("turn."):]
            if end != "completed" or fault:
                self._end = TurnError(end, fault.get("name", ""), fault.get("message", ""))
        return ""

    def check(self) -> None:
        """Raises TurnError if the turn has ended without a whole reply."""
        if self._end:
            raise self._end

    def _delta(self, part: str, offset: int, text: str) -> str:
        have = len(self._texts.get(part, ""))
        if offset > have or offset + len(text) <= have:
            return ""  # known, or after a gap: then the whole part will come
        new = text[have - offset:]
        self._texts[part] = self._texts.get(part, "") + new
        return new

    def _part(self, part: str, text: str) -> str:
        had = self._texts.get(part, "")
        if text:
            self._texts[part] = text
        return text[len(had):] if text.startswith(had) else text


def _transient(err: Exception) -> tuple:
    """Whether an error may go away by itself, and not before how many seconds."""
    if isinstance(err, APIError):
        if err.status == 429:
            return True, err.retry_after
        if err.status == 503:
            return err.retry_after > 0 or err.code is None, err.retry_after
        return err.status in (502, 504) and err.code is None, err.retry_after
    return not isinstance(getattr(err, "reason", err), ssl.SSLCertVerificationError), 0.0


def _may_have_effect(err: Exception) -> bool:
    """Whether the server may have done what it was asked, though this is what came back."""
    if isinstance(err, APIError):
        return err.code is None
    return not isinstance(getattr(err, "reason", err), (ConnectionRefusedError, socket.gaierror))


def _backoff(attempt: int) -> float:
    d = min(_FIRST_PAUSE * 2 ** min(attempt, 16), _MAX_PAUSE)
    return d / 2 + random.random() * d / 2


def _retry_after(text: Optional[str]) -> float:
    if not text:
        return 0.0
    try:
        return float(max(0, int(text)))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _new_key() -> str:
    return secrets.token_urlsafe(18)


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _session(session_id: str) -> str:
    return "%s/sessions/%s" % (_API, _quote(session_id))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
