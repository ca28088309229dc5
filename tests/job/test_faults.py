import subprocess
import sys

import pytest
import torch

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import Request
from infinitetalk.errors import DeviceFailed, Internal, OutOfMemory
from infinitetalk.job.faults import CUDA_OUT_OF_MEMORY, classify_failure, within_memory
from infinitetalk.planning.plan import make_plan

REQUEST = Request.parse({"image_url": "https://example.com/a.png", "wav_url": "https://example.com/a.wav"})
PLAN = make_plan(REQUEST, load_profile("miniature"), load_mode("turbo"), 50, 7)


def accelerator_error(code=None):
    error = torch.AcceleratorError("CUDA error")
    if code is not None:
        error.error_code = code  # as torch sets it
    return error


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), MemoryError(), accelerator_error(CUDA_OUT_OF_MEMORY)], ids=type
)
def test_too_little_memory_of_any_kind_has_one_name(error):
    with pytest.raises(OutOfMemory, match="96x160 in windows of 49 frames") as caught:
        within_memory(PLAN, failing(error))
    assert caught.value.__context__ is None, "the first exception, and with it its tensors, is still there"


@pytest.mark.parametrize("error", [accelerator_error(700), accelerator_error(), KeyError("bug")], ids=repr)
def test_other_failures_pass(error):
    with pytest.raises(type(error)):
        within_memory(PLAN, failing(error))


def test_what_the_work_returns_is_returned():
    assert within_memory(PLAN, lambda: "video") == "video"


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: caused(RuntimeError("later"), error)])
def test_an_error_of_the_gpu_means_a_new_worker_also_as_a_cause(wrap):
    failure = classify_failure(wrap(accelerator_error(700)))
    assert isinstance(failure, DeviceFailed)
    assert failure.refresh_worker


def test_any_other_failure_leaves_the_worker_as_it_is():
    failure = classify_failure(caused(RuntimeError("a"), KeyError("b")))
    assert type(failure) is Internal
    assert not failure.refresh_worker
    assert "b" not in str(failure).split()


def caused(error, cause):
    error.__cause__ = cause
    return error


POISON = """
import torch
from infinitetalk.job.faults import classify_failure
row = torch.zeros(4, device="cuda")
try:
    print(row[torch.tensor([9], device="cuda")])
except RuntimeError as error:
    failure = classify_failure(error)
try:
    torch.mm(row.view(2, 2), row.view(2, 2))
except RuntimeError:
    print(type(failure).__name__, type(classify_failure(RuntimeError("by a library"))).__name__)
"""


@pytest.mark.requires_cuda
def test_a_real_assertion_on_the_gpu_is_told_from_a_bug():
    done = subprocess.run([sys.executable, "-c", POISON], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["DeviceFailed", "DeviceFailed"]


@pytest.mark.requires_cuda
def test_the_memory_of_a_job_that_ran_out_of_it_is_free_again():
    torch.cuda.empty_cache()
    before, _ = torch.cuda.mem_get_info()

    def work():
        held = []
        while True:
            held.append(torch.zeros(1 << 30, dtype=torch.uint8, device="cuda"))

    with pytest.raises(OutOfMemory):
        within_memory(PLAN, work)
    after, _ = torch.cuda.mem_get_info()
    assert after >= before - (256 << 20)
