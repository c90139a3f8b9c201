"""Spans: one a batch, linked to the traces of its records, sent where OpenTelemetry's variables say."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from world import Memory, config, pictures

from tta_daemon.errors import ConfigError
from tta_daemon.watch.traces import Traces, traces

EXTRA = "pip install 'tta-daemon[otel]'"
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason=EXTRA)
export = pytest.importorskip("opentelemetry.sdk.trace.export", reason=EXTRA)
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason=EXTRA)
wire = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=EXTRA)

TRACE = "4bf92f3577b34da6a3ce929d0e0e47{:02x}"


def parent(number):
    return f"00-{TRACE.format(number)}-00f067aa0ba902{number:02x}-01".encode()


@pytest.fixture
def spans():
    kept = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(kept))
    yield provider, kept
    provider.shutdown()


def send(world, parents):
    for picture, traceparent in zip(pictures(len(parents)), parents, strict=True):
        headers = (("content-type", b"application/x-npy"), *([("traceparent", traceparent)] if traceparent else []))
        world.log.append("images", picture, headers=headers)


def test_a_batch_is_a_span_that_links_to_where_its_records_come_from(spans):
    provider, kept = spans
    world = Memory(config())
    world.daemon.traces = Traces(provider)
    send(world, [parent(1), parent(2), parent(2), None, b"nonsense", parent(3), None, None, None, None])
    world.run_dry()
    first, second = kept.get_finished_spans()
    assert [link.context.trace_id for link in first.links] == [int(TRACE.format(n), 16) for n in (1, 2, 3)]
    assert [link.attributes["messaging.kafka.offset"] for link in first.links] == [0, 1, 5]
    assert second.links == ()
    assert first.parent is None
    assert first.attributes["messaging.batch.message_count"] == 8
    assert (first.attributes["tta.learned"], second.attributes["tta.held"]) == (True, "small_batch")
    assert first.start_time < first.end_time <= second.end_time
    assert world.log.records("answers")[0].header("traceparent") == parent(1).decode()


def test_nothing_is_imported_and_nothing_sent_where_nobody_asks(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    world = Memory(config())
    with traces({}) as silent:
        world.daemon.traces = silent
        send(world, [parent(1)] * 8)
        world.run_dry()
    assert len(world.answered()) == 8


def test_whoever_asks_without_the_extra_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    asked = traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.*tta-daemon\[otel\]"):
        asked.__enter__()


def test_spans_arrive_at_a_collector(monkeypatch):
    came = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        world = Memory(config())
        with traces({"OTEL_EXPORTER_OTLP_ENDPOINT": "set"}) as told:
            world.daemon.traces = told
            send(world, [parent(7)] * 8)
            world.run_dry()
        server.shutdown()
        thread.join(timeout=30)
    ((path, body),) = came
    assert path == "/v1/traces"
    (resource,) = wire.ExportTraceServiceRequest.FromString(body).resource_spans
    assert any(
        one.key == "service.name" and one.value.string_value == "tta-daemon" for one in resource.resource.attributes
    )
    (span,) = resource.scope_spans[0].spans
    assert [link.trace_id.hex() for link in span.links] == [TRACE.format(7)]
