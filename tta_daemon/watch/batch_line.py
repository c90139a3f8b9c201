"""The one line that a batch leaves in the log: which records, how large, what was done. Never what they hold."""

from collections.abc import Mapping

from tta_daemon.answered import Answered, Hold
from tta_daemon.stream.records import Batch, Partition

Line = Mapping[str, object]


def batch_line(batch: Batch, answered: Answered, hold: Hold | None) -> Line:
    """Return what is worth knowing of a batch that was answered and, unless held back, learned from."""
    return {
        "records": len(batch.samples),
        "images": batch.size,
        "offsets": _offsets(batch),
        "by": answered.serve.value,
        "infer_s": round(answered.seconds, 4),
        "source_s": round(answered.source_seconds, 4),
        "guard_s": round(answered.guard_seconds, 4),
        "learned": hold is None,
        **({"held": hold.value} if hold else {}),
        **({"repaired": answered.repaired} if answered.repaired else {}),
        **({"again": True} if batch.learned else {}),
    }


def _offsets(batch: Batch) -> dict[str, str]:
    """First and last offset of each partition, such as ``{"images-0": "17-80"}``."""
    spans: dict[Partition, tuple[int, int]] = {}
    for record in batch.records:
        partition, offset = record.position
        low, high = spans.get(partition, (offset, offset))
        spans[partition] = min(low, offset), max(high, offset)
    return {f"{topic}-{number}": f"{low}-{high}" for (topic, number), (low, high) in sorted(spans.items())}
