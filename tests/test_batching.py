import pytest
import torch

from scenewright.batching import in_batches


def cpu_is_full():
    torch.empty(2**50)  # torch's own error: no MemoryError


def gpu_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory")


def library_is_full():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def python_is_full():
    raise MemoryError


@pytest.mark.parametrize("fail", [cpu_is_full, gpu_is_full, library_is_full, python_is_full])
def test_what_does_not_fit_is_halved_however_it_is_said(fail, caplog):
    sizes = []

    def double(items):
        sizes.append(len(items))
        if len(items) > 2:
            fail()
        return [2 * x for x in items]

    assert in_batches(double, list(range(5)), 5) == [0, 2, 4, 6, 8]
    assert sizes == [5, 2, 3, 1, 2] and "out of memory with a batch of 5" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_another_error_is_not_tried_again(error):
    calls = []

    def broken(items):
        calls.append(items)
        raise error

    with pytest.raises(type(error), match=str(error)):
        in_batches(broken, [1, 2], 2)
    assert len(calls) == 1


def test_only_alike_items_go_together_and_order_is_kept():
    batches = []

    def seen(items):
        batches.append(items)
        return items

    assert in_batches(seen, [1, 2, 3, 4, 5], 2, alike=lambda x: x % 2) == [1, 2, 3, 4, 5]
    assert batches == [[1, 3], [5], [2, 4]] and in_batches(seen, [], 2) == []
