"""Several streams in one forward are answered as each would be alone."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import images, tiny_cnn, tiny_vit

import adapters
from adapters.together import answers_together, predict_together

METHODS = ["source", "labelshift", "temperature", "norm", "tent", "rpl", "eata", "sar", "roid"]


def streams_of(name, count):
    """An adapter, and what it remembers after different lives."""
    options = adapters.METHODS[name].options(**({"alike": True} if name == "temperature" else {}))
    adapter = adapters.build(name, tiny_cnn(), options)
    memories = [None]
    for seed in range(1, count):
        adapter.rewind()
        for step in range(seed):
            adapters.step(adapter, images(8, seed=10 * seed + step))
        memories.append(adapter.dump())
    return adapter, memories


@pytest.mark.parametrize("name", METHODS)
def test_each_part_is_answered_as_if_it_were_alone(name):
    adapter, memories = streams_of(name, 4)

    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=6))
    def parts(drawn):
        seen = images(sum(size for _, size in drawn), seed=3)
        chosen = [memories[which] for which, _ in drawn]
        before = adapter.dump()
        together = predict_together(adapter, seen, [size for _, size in drawn], chosen)
        assert all(tensor.equal(before[key]) for key, tensor in adapter.dump().items())
        apart = []
        for memory, part in zip(chosen, seen.split([size for _, size in drawn]), strict=True):
            adapter.load(adapter.birth if memory is None else memory)
            apart.append(adapter.predict(part))
        torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)

    assert answers_together(adapter)
    parts()


def test_parts_lean_on_the_source_as_batches_do_each_as_far_as_it_shall():
    from adapters.parts.norms import normalizing, pseudo_counted  # noqa: PLC0415

    adapter, memories = streams_of("tent", 3)
    seen = images(6, seed=5)
    together = predict_together(adapter, seen, [1, 2, 3], memories, source_images=[16, 0, 8])
    apart = []
    for memory, part, counts in zip(memories, seen.split([1, 2, 3]), [16, 0, 8], strict=True):
        adapter.load(adapter.birth if memory is None else memory)
        with normalizing(adapter, pseudo_counted(counts)):
            apart.append(adapter.predict(part))
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)


def test_who_moves_more_than_scales_and_shifts_of_batch_norms_answers_one_stream_at_a_time():
    assert not answers_together(adapters.build("cotta", tiny_cnn()))
    assert not answers_together(adapters.build("tent", tiny_vit()))
    with pytest.raises(TypeError, match="one stream at a time"):
        predict_together(adapters.build("cotta", tiny_cnn()), images(2), [2], [None])
