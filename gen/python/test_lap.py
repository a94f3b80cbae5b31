"""Tests of lap.py against a server in memory: python3 -m unittest, in this directory. server/sdk/python_test.go runs them too."""

import ast
import http.server
import json
import pathlib
import threading
import time
import unittest

import lap


class Server(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of `script`, the last one again and again; bytes are sent as they are, and then cut off."""

    script: list
    seen: list
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        n = len(self.seen)
        self.seen.append((self.command, self.path, self.headers.get("Idempotency-Key"), body))
        answer = self.script[min(n, len(self.script) - 1)]
        self.close_connection = True
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return
        status, headers, text = answer
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PATCH = do_DELETE = handle_one

    def log_message(self, *args):
        pass


def refuses(status, code, **headers):
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, json.dumps(
        {"error": "no", "code": code, "request_id": "r1", "details": [{"field": "/model", "message": "is required"}]})


def says(value):
    return 200, {}, json.dumps(value)


def event(seq, kind, **data):
    return "id: %d\nevent: %s\ndata: %s\n\n" % (seq, kind, json.dumps({"type": kind, "seq": seq, "turn_id": "t", "data": data}))


def streams(*events):
    return 200, {"Content-Type": "text/event-stream"}, ":\n\n" + "".join(events)


LOST = b""
BROKEN_OFF = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"id":'
BUSY = refuses(503, "server_busy", Retry_After="3")


class Case(unittest.TestCase):
    def setUp(self):
        self.slept = []
        self.now = 0.0
        lap._sleep, lap._clock = self.sleep, lambda: self.now
        self.addCleanup(setattr, lap, "_sleep", time.sleep)
        self.addCleanup(setattr, lap, "_clock", time.monotonic)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def client(self, *script, **options):
        handler = type("Handler", (Server,), {"script": list(script), "seen": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return lap.Client("http://127.0.0.1:%d/" % server.server_port, "key-canary", **options), handler.seen


class Retries(Case):
    def test_what_is_sent_again_and_what_is_not(self):
        ok = says({"id": "a1"})
        post, patch = (lambda c: c.post("/x", {})), (lambda c: c.patch("/x", {}))
        delete = lambda c: c.delete("/x")
        gone = refuses(404, "not_found")
        for name, do, script, requests, error in [
            ("a lost answer", post, [LOST, ok], 2, None),
            ("an answer that breaks off", post, [BROKEN_OFF, ok], 2, None),
            ("busy", post, [BUSY, BUSY, ok], 3, None),
            ("rate", post, [refuses(429, "session_rate_exceeded"), ok], 2, None),
            ("a proxy without its server", post, [(502, {}, "<html>"), (503, {}, ""), ok], 3, None),
            ("a turn that failed", post, [refuses(502, "turn_interrupted")], 1, lap.APIError),
            ("what does not pass", post, [refuses(503, "gateway_not_configured")], 1, lap.Unavailable),
            ("a fault", post, [refuses(500, "internal")], 1, lap.APIError),
            ("bad input", post, [refuses(400, "invalid_request")], 1, lap.BadRequest),
            ("too long to wait", post, [refuses(503, "too_many_sessions", Retry_After="61")], 1, lap.Unavailable),
            ("never", post, [BUSY], 5, lap.Unavailable),
            ("something else at the URL", post, [(200, {"Content-Type": "text/html"}, "<html>")], 1, ValueError),
            ("a redirect", post, [(302, {"Location": "http://127.0.0.1:1/"}, "")], 1, lap.APIError),
            ("a change that was refused", patch, [BUSY, ok], 2, None),
            ("a change that may be done", patch, [LOST, ok], 1, OSError),
            ("a delete that was done", delete, [LOST, gone], 2, None),
            ("a delete of nothing", delete, [BUSY, gone], 2, lap.NotFound),
        ]:
            with self.subTest(name):
                client, seen = self.client(*script)
                if error:
                    with self.assertRaises(error):
                        do(client)
                else:
                    do(client)
                self.assertEqual(len(seen), requests)
                self.assertEqual(len(set(seen)), 1, "requests differ")
                self.assertEqual(seen[0][2] is not None, seen[0][0] == "POST")

    def test_a_refused_connection_is_tried_again(self):
        client = lap.Client("http://127.0.0.1:1", "k")
        with self.assertRaises(OSError):
            client.patch("/x", {})
        self.assertEqual(len(self.slept), 4)

    def test_pauses(self):
        client, _ = self.client(BUSY)
        with self.assertRaises(lap.Unavailable):
            client.get("/x")
        for attempt, pause in enumerate(self.slept):
            self.assertTrue(3 + 0.125 * 2**attempt <= pause <= 3 + 0.25 * 2**attempt, self.slept)
        at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
        self.assertTrue(20 < lap._retry_after(at) <= 30)
        self.assertEqual([lap._retry_after(t) for t in (None, "", "soon", "-1", "7")], [0, 0, 0, 0, 7])

    def test_errors_are_typed_and_never_show_the_key(self):
        client, _ = self.client(refuses(409, "harness_is_tui"))
        with self.assertRaises(lap.Conflict) as caught:
            client.get("/x", a=None, b=True)
        err = caught.exception
        self.assertEqual((err.status, err.code, err.request_id, err.details[0]["field"]), (409, "harness_is_tui", "r1", "/model"))
        self.assertEqual(str(err), "no; /model: is required")
        self.assertNotIn("canary", repr(client) + repr(err))
        for url, key in [("", "k"), ("lap.test", "k"), ("ftp://lap.test", "k"), ("http://x", ""), ("http://x", "a\nb"), ("http://x", "ä")]:
            with self.assertRaises(ValueError):
                lap.Client(url, key)


class Lists(Case):
    def test_all_pages(self):
        pages = [says({"data": [{"id": n}], "next_cursor": "c %d" % n if n < 4 else None}) for n in range(1, 5)]
        client, seen = self.client(*pages)
        self.assertEqual([row["id"] for row in client.agents(search="x", offset=3)], [1, 2, 3, 4])
        self.assertEqual(seen[0][1], "/api/v1/managed_agents/agents?limit=200&total=false&search=x&offset=3")
        self.assertEqual(seen[3][1], "/api/v1/managed_agents/agents?limit=200&total=false&search=x&cursor=c+3")

    def test_the_event_log(self):
        client, seen = self.client(says({"data": [1, 2], "next_after": 5, "has_more": True}), says({"data": [3], "next_after": 9, "has_more": False}))
        self.assertEqual(list(client.event_log("s/1", 3)), [1, 2, 3])
        self.assertIn("sessions/s%2F1/events?after=5&follow=false", seen[1][1])


class Streams(Case):
    def test_events_go_on_where_their_stream_broke(self):
        lost = []
        one, two, four = event(1, "a"), event(2, "b"), event(4, "c")
        client, seen = self.client(streams(one, two[:-2]), LOST, BUSY, streams(one, two), streams(four), lost=lost.append)
        got = []
        for e in client.events("s1"):
            got.append(e["seq"])
            if e["seq"] == 4:
                break
        self.assertEqual(got, [1, 2, 4])
        self.assertEqual([r[1].split("?")[1] for r in seen], ["after=0", "after=1", "after=1", "after=1", "after=2"])
        self.assertEqual(len(lost), 2)

    def test_a_message_is_one_turn(self):
        head = [event(3, "turn.queued"), event(4, "turn.started")]
        client, seen = self.client(
            refuses(429, "too_many_queued_turns", Retry_After="5"), LOST,
            streams(*head, event(5, "message.delta", part_id="p", offset=0, text="Zwölf ")),
            streams(*head, event(7, "message.delta", part_id="p", offset=10, text="日本")),
            streams(*head, event(9, "message.part", part_id="p", part={"id": "p", "type": "text", "text": "Zwölf Boxkämpfer"}),
                    event(10, "message.part", part_id="r", part={"id": "r", "type": "reasoning", "text": "hm"}),
                    event(12, "turn.completed", info={"error": None}), event(13, "never")))
        reply, shown, kinds = lap.Reply(), "", []
        for e in client.turn("s1", "hi"):
            shown += reply.add(e)
            kinds.append(e["type"])
        reply.check()
        self.assertEqual((shown, reply.text), ("Zwölf Boxkämpfer",) * 2)
        self.assertEqual(kinds, ["turn.queued", "turn.started", "message.delta", "message.delta", "message.part", "message.part", "turn.completed"])
        self.assertEqual(len(seen), 5)
        self.assertEqual(len(set(seen)), 1)
        self.assertTrue(seen[0][2])

    def test_how_a_reply_ends(self):
        for kind, data, text in [
            ("turn.completed", {"info": {"error": {"name": "model_error", "message": "no credit"}}}, "the turn failed: model_error: no credit"),
            ("turn.aborted", {"info": {"error": {"name": "aborted", "message": "x"}}}, "the turn failed: aborted: x"),
            ("turn.failed", {}, "the turn failed"),
        ]:
            reply = lap.Reply()
            reply.check()
            reply.add({"type": kind, "data": data})
            with self.assertRaises(lap.TurnError) as caught:
                reply.check()
            self.assertEqual((str(caught.exception), "turn." + caught.exception.end), (text, kind))

    def test_a_stream_is_given_up(self):
        client, _ = self.client(LOST)
        with self.assertRaises(OSError):
            next(client.events("s1"))
        self.assertTrue(300 < self.now < 310)
        client, seen = self.client(refuses(404, "not_found"))
        with self.assertRaises(lap.NotFound):
            next(client.events("s1"))
        self.assertEqual(len(seen), 1)


class Source(unittest.TestCase):
    def test_python_3_9_takes_it(self):
        ast.parse(pathlib.Path(lap.__file__).read_text(), feature_version=(3, 9))


if __name__ == "__main__":
    unittest.main()
