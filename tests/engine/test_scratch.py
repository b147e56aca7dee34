"""Buckets share one buffer per name, and different things never share."""

import torch

from narsil_graph.engine.scratch import Scratch


def test_smaller_bucket_is_given_the_beginning_of_the_larger_one() -> None:
    scratch = Scratch()
    large, small = scratch.take("a", 8, 3), scratch.take("a", 5, 3)
    assert small.shape == (5, 3)
    assert small.data_ptr() == large.data_ptr()
    assert small.is_contiguous()


def test_larger_bucket_leaves_the_smaller_one_its_memory() -> None:
    scratch = Scratch()
    small = scratch.take("a", 2, 3)
    large = scratch.take("a", 4, 3)
    large.fill_(7.0)
    assert large.shape == (4, 3)
    assert not small.any()


def test_other_names_shapes_and_types_have_other_memory() -> None:
    scratch = Scratch()
    taken = [
        scratch.take("a", 4, 3),
        scratch.take("b", 4, 3),
        scratch.take("a", 4, 3, 1),
        scratch.take("a", 4, 3, dtype=torch.bfloat16),
    ]
    assert len({tensor.data_ptr() for tensor in taken}) == 4
    assert taken[3].dtype is torch.bfloat16
