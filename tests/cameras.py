"""A few cameras whose records each hold a batch, and what each of them teaches an adapter of its own."""

import io
from collections import Counter
from functools import cache

import numpy as np
import torch
from nets import images
from world import config, npy

from tta_daemon.control.snapshot import decode
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.stream.records import Partition, Stream

SIZE, PARTITIONS, STREAMS, RECORDS = 4, 3, 7, 30
NEVER_S = 1e6


def setting(delivery="at_least_once", name="pod-0", **more):
    sections = {
        "adapt": {"method": "tent", "learn_from": SIZE},
        "batch": {"size": SIZE, "patience_s": NEVER_S},
        "settle": {"every_s": NEVER_S},
        "limits": {"reject_ratio": 1.0},
        "kafka": {"delivery": delivery, "group_instance_id": name},
        "checkpoint": {"every_s": 0.0},
        "streams": {"by": "key", "max_resident": 2},
    }
    return config(**{name: sections.get(name, {}) | more.get(name, {}) for name in {**sections, **more}})


@cache
def records():
    """Each holds a batch: so it is the same batch whoever answers it. With nonsense between."""
    pixels = (images(RECORDS * SIZE) * 255).byte().permute(0, 2, 3, 1).numpy()
    values = [npy(pixels[n * SIZE : (n + 1) * SIZE]) for n in range(RECORDS)]
    return [b"nonsense" if n in {3, 11, 12} else value for n, value in enumerate(values)]


def stream_of(n):
    number = (n * n + n // 3) % STREAMS
    return f"cam-{number}", number % PARTITIONS


def values():
    """Key, partition, and headers of each record, with its value."""
    for n, value in enumerate(records()):
        key, partition = stream_of(n)
        kind = (("content-type", b"application/x-npy"), ("id", str(n).encode()))
        yield key.encode(), partition, kind, value


@cache
def alone(topic="images"):
    """What each stream has learned by itself, in a process of its own; and how many records of it there are."""
    learners, counts = {}, Counter()
    for n, value in enumerate(records()):
        if value == b"nonsense":
            continue
        name, partition = stream_of(n)
        stream = Stream(name, Partition(topic, partition))
        if stream not in learners:
            given = setting()
            learners[stream] = Learner(load(given.model), given.adapt, given.watch.sample, given.guard)
        pixels = np.ascontiguousarray(np.load(io.BytesIO(value)).transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(
            255
        )
        learners[stream].answer(torch.from_numpy(pixels)).learn()
        counts[stream] += 1
    return {stream: (learner.adapter.dump(), counts[stream]) for stream, learner in learners.items()}


def found(states, topic="images"):
    """Everything that is saved, by stream."""
    places = [Partition(topic, n) for n in range(PARTITIONS)]
    kept = {}
    for place in places:
        for some in states.restore(place):
            for one in some:
                if one.name is not None:
                    kept[Stream(one.name, place)] = decode(one.blob)
    return kept


def same(kept, wanted):
    """Nothing where both are the same bit for bit; else what differs first."""
    if kept.keys() != wanted.keys():
        return f"streams {sorted(map(str, kept.keys() ^ wanted.keys()))}"
    for stream, (memory, count) in wanted.items():
        if kept[stream].batches != count:
            return f"{stream}: {kept[stream].batches} batches, not {count}"
        for name, tensor in memory.items():
            if not torch.equal(kept[stream].memory[name], tensor):
                return f"{stream}: {name}"
    return ""
