"""TF32 is one switch: products and convolutions agree, torch's older names can be read, and the state before comes back."""

import pytest
import torch

from labcore import provenance, tf32


def older() -> tuple:
    """torch's older names; reading them raises where they disagree with the newer ones."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


def newer() -> tuple:
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


@pytest.fixture(autouse=True)
def as_torch_starts():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    assert older() == (False, True, "highest") and newer() == ("none", "tf32", "tf32")


def test_products_and_convolutions_have_one_state():
    assert tf32.describe() == "convolutions" and not tf32.enabled()  # as torch starts
    with tf32.use(True):
        assert tf32.enabled() and tf32.describe() == "on" and older() == (True, True, "high")
        with tf32.use(False):
            assert not tf32.enabled() and tf32.describe() == "off" and older() == (False, False, "highest")
        assert tf32.enabled() and older() == (True, True, "high")
    tf32.set(True)
    assert tf32.enabled() and newer() == ("tf32",) * 3
    tf32.set(False)
    assert tf32.describe() == "off" and newer() == ("ieee",) * 3


STATES = {
    "as torch starts": lambda: None,
    "older name": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "oldest function": lambda: torch.set_float32_matmul_precision("medium"),
    "newer name alone": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}


@pytest.mark.parametrize("state", STATES)
def test_what_was_set_before_comes_back_also_after_an_exception(state):
    STATES[state]()
    before, cpu = newer(), torch.backends.mkldnn.matmul.fp32_precision
    words = older() if state != "newer name alone" else None
    with pytest.raises(OSError, match="inside"), tf32.use(True):
        assert tf32.enabled() and torch.backends.mkldnn.matmul.fp32_precision == cpu
        raise OSError("inside")
    assert newer() == before and (words is None or older() == words)


def test_records_of_a_gpu_say_it(monkeypatch):
    assert "tf32" not in provenance.stamp()  # a CPU has none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    with tf32.use(True):
        assert provenance.stamp()["tf32"] == "on"
    with tf32.use(False):
        assert provenance.stamp()["tf32"] == "off"
