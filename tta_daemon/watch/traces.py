"""A span for each batch, linked to the traces that its records belong to. Needs the extra `otel`.

Where spans go is OpenTelemetry's own business: its variables, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``, say so. Without
that one there are no spans, and nothing of OpenTelemetry is imported. An answer carries its record's ``traceparent``
on, whether there are spans or not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tta_daemon.answered import Hold
from tta_daemon.errors import ConfigError
from tta_daemon.stream.records import Batch

WHERE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
MOST_LINKS = 128
"""What OpenTelemetry keeps of the links of one span, unless told otherwise."""


class Traces:
    """Tells of batches that are done. Without a provider of spans it is silent.

    Args:
        provider: OpenTelemetry's `TracerProvider`.
    """

    def __init__(self, provider: Any = None) -> None:  # noqa: ANN401 - the library may be absent
        self._tracer = provider and provider.get_tracer("tta_daemon")

    def answered(self, batch: Batch, hold: Hold | None, group: str, began_s: float) -> None:
        """A batch was answered and, unless held back, learned from; it began at this wall clock time."""
        if self._tracer is None:
            return
        from opentelemetry import trace  # noqa: PLC0415 - an extra

        topic = batch.records[0].position.partition.topic
        span = self._tracer.start_span(
            f"process {topic}",
            kind=trace.SpanKind.CONSUMER,
            links=list(_links(batch)),
            start_time=int(began_s * 1e9),
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": topic,
                "messaging.consumer.group.name": group,
                "messaging.batch.message_count": len(batch.samples),
                "tta.images": batch.size,
                "tta.learned": hold is None,
                **({"tta.held": hold.value} if hold else {}),
            },
        )
        span.end()


@contextmanager
def traces(environ: Mapping[str, str]) -> Iterator[Traces]:
    """Spans where the environment asks for them; what is left of them is sent when the block ends.

    Raises:
        ConfigError: they are asked for, and the extra is not installed.
    """
    asked = next((name for name in WHERE if environ.get(name)), None)
    if asked is None:
        yield Traces()
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as fault:
        raise ConfigError(asked, "OpenTelemetry is not installed", "pip install 'tta-daemon[otel]'") from fault
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "tta-daemon"}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Traces(provider)
    finally:
        provider.shutdown()


def _links(batch: Batch) -> Iterator[Any]:
    """A link to each trace that a record of the batch comes from."""
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    seen: set[int] = set()
    for record in batch.records:
        carried = {name: said for name in ("traceparent", "tracestate") if (said := record.header(name))}
        if "traceparent" not in carried or len(seen) == MOST_LINKS:
            continue
        context = trace.get_current_span(TraceContextTextMapPropagator().extract(carried)).get_span_context()
        if context.is_valid and context.span_id not in seen:
            seen.add(context.span_id)
            partition, offset = record.position
            where: Mapping[str, str | int] = {
                "messaging.destination.partition.id": str(partition.number),
                "messaging.kafka.offset": offset,
            }
            yield trace.Link(context, where)
