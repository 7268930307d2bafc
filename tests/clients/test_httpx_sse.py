"""Python's httpx-sse follows a stream over connections that break, and misses nothing."""

import json
import os
import re
import socket
import struct
import threading
import time
import unittest
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from httpx_sse import connect_sse

API = os.environ["RILL_URL"]
SAMPLE = json.loads(Path(__file__).with_name("sample.json").read_text())
TERMINAL = {"done", "failed", "cancelled"}
PING = b"event: ping"


class CuttingProxy:
    """Breaks a connection after each of `limits`, bytes of answer or the first ping; then lets everything through."""

    def __init__(self, limits):
        self.limits = list(limits)
        self.cuts = 0
        self.resumed = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            limit = self.limits.pop(0) if self.limits else None
            threading.Thread(target=self._serve, args=(client, limit), daemon=True).start()

    def _serve(self, client, limit):
        target = urlsplit(API)
        with client, socket.create_connection((target.hostname, target.port)) as upstream:
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            found = re.search(rb"(?i)last-event-id: *(\S+)", head)
            self.resumed.append(found and found.group(1).decode())
            upstream.sendall(head)
            left = None if limit == PING else limit
            while data := upstream.recv(65536):
                # The cut may fall inside a character, a field or a chunk's length.
                client.sendall(data if left is None else data[:left])
                if limit == PING and PING in data:
                    # Without a reset, which could overtake the ping.
                    return
                if left is None:
                    continue
                left -= len(data)
                if left <= 0:
                    self.cuts += 1
                    # No polite end: a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return


def follow(client, url, deadline=60):
    """Yields the events up to the last one, over as many connections as it takes."""
    last, wait, end = None, 0.5, time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            headers = {"Last-Event-ID": last} if last else {}
            with connect_sse(client, "GET", url, headers=headers) as source:
                if source.response.status_code == 204:
                    return
                source.response.raise_for_status()
                for event in source.iter_sse():
                    if event.retry is not None:
                        wait = event.retry / 1000
                    if not event.data:
                        continue
                    # A ping has no ID; on a new connection that is an empty one, and no cursor.
                    last = event.id or last
                    yield event
                    if event.event in TERMINAL:
                        return
        except httpx.TransportError:
            pass
        time.sleep(wait)
    raise TimeoutError(f"no end within {deadline} s; last event {last}")


class HttpxSse(unittest.TestCase):
    maxDiff = 2000

    def ask(self, api, content):
        """Asks for an answer; gives what was accepted, and a function that fetches the stored text."""
        conversation = api.post("/v1/conversations", json={"title": "httpx-sse"}).raise_for_status().json()
        messages = f"/v1/conversations/{conversation['id']}/messages"
        key = {"Idempotency-Key": str(uuid.uuid4())}
        accepted = api.post(messages, json={"content": content}, headers=key).raise_for_status().json()

        def stored():
            items = api.get(messages).raise_for_status().json()["items"]
            return next(item for item in items if item["id"] == accepted["message_id"])["content"]

        return accepted, stored

    def read(self, url):
        """Follows a stream to its end; gives the text, the IDs of its events, and the pings' data."""
        text, ids, pings, end = "", [], [], None
        with httpx.Client(timeout=30) as client:
            for event in follow(client, url):
                if event.event == "ping":
                    pings.append(event.data)
                    continue
                data = event.json()
                ids.append(event.id)
                if event.event == "started":
                    text = ""
                elif event.event == "snapshot":
                    text = data["text"]
                elif event.event == "delta":
                    text += data["text"]
                elif event.event in TERMINAL:
                    end = event.event
        self.assertEqual(end, "done")
        self.assertEqual(len(set(ids)), len(ids), "an event came twice")
        return text, ids, pings

    def test_httpx_sse_reads_the_exact_answer_across_cuts(self):
        with httpx.Client(base_url=API, timeout=30) as api:
            accepted, stored = self.ask(api, f"{SAMPLE['directives']} {SAMPLE['paragraph'] * SAMPLE['repeat']}")
            proxy = CuttingProxy([700, 2501, 900, 4003, 1777, 3333])
            self.addCleanup(proxy.close)
            text, ids, _ = self.read(proxy.url + accepted["stream_url"])

            content = stored()
            self.assertGreater(len(content), 2000, "the answer is too short to be cut")
            self.assertEqual(text, content)
            # A busy machine merges events: fewer bytes, fewer cuts.
            self.assertGreaterEqual(proxy.cuts, 4)
            resumed = [cursor for cursor in proxy.resumed if cursor]
            self.assertGreaterEqual(len(resumed), 4, proxy.resumed)
            for cursor in resumed:
                self.assertIn(cursor, ids)

    def test_httpx_sse_sees_pings_and_none_of_them_moves_its_cursor(self):
        with httpx.Client(base_url=API, timeout=30) as api:
            accepted, stored = self.ask(api, "[[ttft=8s]] [[tokens=20]] [[rate=100]]")
            while api.get(f"/v1/tasks/{accepted['task_id']}").raise_for_status().json()["status"] != "running":
                time.sleep(0.025)
            # The first connection brings `started` and a ping, the second one a ping and nothing else.
            proxy = CuttingProxy([PING, PING])
            self.addCleanup(proxy.close)
            text, ids, pings = self.read(proxy.url + accepted["stream_url"])

            self.assertEqual(text, stored())
            self.assertEqual(proxy.resumed, [None, ids[0], ids[0]])
            self.assertGreaterEqual(len(pings), 2)
            self.assertEqual(set(pings), {'{"type":"ping"}'})

    def test_a_client_that_splits_lines_as_python_does_reads_every_event_whole(self):
        with httpx.Client(base_url=API, timeout=30) as api:
            breaks = "\u2028 \u2029 \u0085 \u000b \u000c \u001c \u001d \u001e"
            accepted, stored = self.ask(api, f"{SAMPLE['directives']} {breaks}{SAMPLE['paragraph']}{breaks}")
            # As it is written, and once more when it is over.
            for _ in range(2):
                text, fields = "", []
                with api.stream("GET", accepted["stream_url"]) as response:
                    # httpx' own lines, which are str.splitlines'.
                    for line in filter(None, response.iter_lines()):
                        name, _, value = line.partition(": ")
                        fields.append(name)
                        if name == "data":
                            data = json.loads(value)
                            if data["type"] == "delta":
                                text += data["text"]
                            elif data["type"] in ("started", "snapshot"):
                                text = data.get("text", "")
                self.assertLessEqual(set(fields), {"id", "event", "data", "retry", ":"}, "a line broke")
                self.assertEqual(text, stored())
                self.assertIn(breaks, text)


if __name__ == "__main__":
    unittest.main()
