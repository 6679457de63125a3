"""uvicorn's HTTP protocol with bounds: a connection is closed if its headers are too many, too long or too slow, if it
sends no valid request, or if it does not read its answer, so that it cannot use up what others need."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
WRITE_SECONDS = 30.0  # that an answer may lie unread
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """`_timer` runs while a request's headers are awaited."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head_bytes = 0  # that came while no head was whole
    _header_bytes = 0  # of the head that is being read
    _completed = False  # headers, in the piece of data that is being taken

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._completed = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._timer is None:
            if not self._answering():  # an unread body, or not a request at all
                self._await_head()
        elif not self._completed:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.write(TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._await_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._timer is None:  # a trailer, which is ignored
            return
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEAD_BYTES:
            raise ValueError("too large")  # ends the parser, which calls send_400_response
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        if self._header_bytes <= HEAD_BYTES:
            super().send_400_response(msg)
            return
        self.transport.write(TOO_LARGE)
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        self._completed = True
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_unread()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._stop_unread()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_is_there()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        if self._answering():  # the one before is still being answered
            self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        else:
            self.transport.close()

    def _head_is_there(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._head_bytes = None, 0

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        self._unread = None
