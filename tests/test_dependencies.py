"""What a drawing reads besides its arguments, and whether that has changed."""

import torch

from labcore.viz.dependencies import changed, state_of

scale, names, weights = 2.0, ["bag", "boot"], torch.ones(3)
layer = torch.nn.Linear(2, 2)


def helper(x):
    return x * scale


def drawing(shade):
    inner = [helper(shade) for _ in names]
    return inner, weights.x if shade > 5 else None


def test_names_that_a_function_reads_are_found_also_in_its_helpers_and_inner_functions():
    assert set(state_of(drawing)) == {"helper", "scale", "names", "weights"}  # not the attribute x, not builtins
    assert set(state_of(lambda: [layer(one) for one in names])) == {"layer", "names"}


def test_changes_are_seen(monkeypatch):
    before = state_of(drawing)
    assert changed(before, state_of(drawing)) == []
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "scale", 3.0)
        assert changed(before, state_of(drawing)) == ["scale"]
        patch.setitem(globals(), "names", ["bag", "shirt"])
        patch.setitem(globals(), "weights", torch.ones(3))  # equal, but another tensor
        assert changed(before, state_of(drawing)) == ["names", "scale", "weights"]
    assert changed(before, state_of(drawing)) == []
    weights.mul_(2)
    assert changed(before, state_of(drawing)) == ["weights"]


def test_functions_count_by_their_code(monkeypatch):
    before = state_of(drawing)
    monkeypatch.setitem(globals(), "helper", lambda x: x)
    assert changed(before, state_of(drawing)) == ["helper", "scale"]  # which nothing reads any more


def test_trained_weights_and_variables_of_functions_around():
    count = 1

    def draw():
        return layer, count

    before = state_of(draw)
    with torch.no_grad():
        layer.weight.add_(1.0)
    assert changed(before, state_of(draw)) == ["layer"]
    before, count = state_of(draw), 2
    assert changed(before, state_of(draw)) == ["count"]
    before, _ = state_of(draw), layer.eval()
    assert changed(before, state_of(draw)) == ["layer"]


def test_a_deleted_object_is_not_taken_for_a_new_one():
    class Thing:
        pass

    held = Thing()
    draw = lambda: held  # noqa: E731
    before = state_of(draw)
    del held
    held = Thing()  # may get the same id
    assert changed(before, state_of(draw)) == ["held"]


def test_tensors_of_inference_mode_and_callables_without_code():
    with torch.inference_mode():
        found = torch.ones(2)
    assert changed(state_of(lambda: found), state_of(lambda: found)) == []
    assert state_of(torch.nn.ReLU()) == {}
