"""Storages that shrink and grow: what comes back is what was there, to the bit."""

from __future__ import annotations

import pytest
import torch

from mars.offload import HostCopies, free, restore, storages_of


def held(tensors):
    return sum(storage.nbytes() for storage in storages_of(tensors).values())


def some_tensors():
    """Tied weights, two views of a flat buffer with a gap, a tensor of another type, and an empty one."""
    flat = torch.arange(20.0)
    tied = torch.randn(3, 4)
    return [flat[:6].view(2, 3), flat[8:].view(3, 4).t(), tied, tied.view(12), torch.ones(5, dtype=torch.bfloat16),
            torch.empty(0)]  # fmt: skip


def test_tensors_come_back_to_the_bit_and_stay_the_same_objects():
    tensors = some_tensors()
    before, copies = [tensor.clone() for tensor in tensors], HostCopies()
    assert held(tensors) == 4 * (20 + 12) + 2 * 5
    for _ in range(2):
        copies.take(tensors)
        copies.take(tensors)  # a second time it does nothing
        assert (held(tensors), copies.are_away) == (0, True)
        assert all(torch.equal(copies.copy_of(t), b) for t, b in zip(tensors, before, strict=True))
        copies.bring_back()
        assert not copies.are_away
        assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))
        tensors[2].mul_(2)
        before[2], before[3] = before[2] * 2, before[3] * 2
    assert torch.equal(tensors[3], tensors[2].view(12)), "tied weights stay tied"


def test_a_tensor_that_is_here_is_no_copy():
    tensors, copies = some_tensors(), HostCopies()
    copies.take(tensors[:1])
    assert copies.copy_of(tensors[2]) is tensors[2]
    assert copies.copy_of(tensors[1])[0, 0] == 8.0, "it shares the storage that was moved"


def test_host_memory_is_used_again_and_that_of_lost_tensors_is_given_back():
    first, copies = torch.randn(100), HostCopies()
    copies.take([first])
    place = copies.copy_of(first).data_ptr()
    copies.bring_back()
    copies.take([first, second := torch.randn(7)])
    assert copies.copy_of(first).data_ptr() == place
    copies.bring_back()
    copies.take([second])
    assert sum(kept.numel() for kept in copies._kept.values()) == 28


def test_an_interruption_loses_nothing(monkeypatch):
    """Of three tensors, the interruption comes right after the second one's storage was resized."""
    tensors, copies = [torch.randn(4) for _ in range(3)], HostCopies()
    before, resize = [tensor.clone() for tensor in tensors], torch.UntypedStorage.resize_

    def interrupted(wanted):
        count = iter(range(100))

        def resize_(storage, size):
            resize(storage, size)
            if next(count) == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(torch.UntypedStorage, "resize_", resize_)
        with pytest.raises(KeyboardInterrupt):
            wanted()
        monkeypatch.setattr(torch.UntypedStorage, "resize_", resize)
        assert all(torch.equal(copies.copy_of(t), b) for t, b in zip(tensors, before, strict=True))

    interrupted(lambda: copies.take(tensors))
    copies.take(tensors)
    assert held(tensors) == 0
    interrupted(copies.bring_back)
    copies.bring_back()
    assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


def test_freed_tensors_get_memory_again_but_not_their_values():
    tensors = some_tensors()
    freed = free(tensors)
    assert held(tensors) == 0
    restore(freed)
    assert held(tensors) == 4 * (20 + 12) + 2 * 5
    tensors[1].fill_(3.0)
    assert tensors[1].sum() == 36


def test_memory_of_a_mapped_file_is_refused(tmp_path):
    file = tmp_path / "weights"
    torch.ones(4).numpy().tofile(file)
    mapped = torch.from_file(str(file), size=4, dtype=torch.float32)
    assert not mapped.untyped_storage().resizable()
    with pytest.raises(RuntimeError, match="resiz"):
        HostCopies().take([mapped])
