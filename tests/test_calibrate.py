"""The choice of a method for each block: by measured error and time, kept with the model it is for."""

import importlib
import json

import pytest
import torch
from conftest import perturbed
from torchvision.io import read_image
from typer.testing import CliRunner

from labcore import TarFlow, invert, provenance
from labcore.cli.app import app
from labcore.data.datasets import Data
from labcore.evaluate.generate import Sampling
from labcore.evaluate.session import EvaluationRequest
from labcore.inverse import calibrate as module
from labcore.inverse.calibrate import calibrate, load, read, save
from labcore.inverse.methods import Method
from labcore.inverse.toughness import convergence_ranking_metric, initial_guess_metric
from labcore.runs.evaluate import _words
from labcore.timing import Timing


@pytest.fixture
def flow():
    return perturbed()


@pytest.fixture
def z():
    return torch.randn(4, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sweeps_as_seconds(monkeypatch):
    """Time that depends on nothing but the number of network evaluations over a block."""

    def seconds(way):
        found = way()
        stats = found.stats if hasattr(found, "stats") else [found[1]]
        return Timing(float(sum(s.sweeps for s in stats)), 0.0)

    monkeypatch.setattr(
        module, "alternate", lambda ways, repeats, warmup: {name: seconds(way) for name, way in ways.items()}
    )


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_the_choice_keeps_the_error_and_saves_sweeps(flow, z, guidance, sweeps_as_seconds):
    y = torch.arange(4)
    found = calibrate(flow, z, y, guidance, tolerance=1e-3)
    want = invert(flow, z, y, guidance)
    got = invert(flow, z, y, guidance, solver=found.methods)
    error = float((got.x - want.x).abs().max())
    assert found.error == error <= 1e-3
    assert found.speedup == sum(s.sweeps for s in want.stats) / sum(s.sweeps for s in got.stats) > 1.5
    assert found.guided is (guidance != 0) and found.batch == 4 and found.dtype == "float64"
    for number, method in enumerate(found.methods, 1):
        trials = [t for t in found.trials if t.block == number]
        chosen = next(t for t in trials if t.method == method)
        assert trials[0].method == Method(segments=16) and trials[0].error == 0.0
        assert chosen.error <= 1e-3 and chosen.seconds == min(
            t.seconds for t in trials if t.error <= chosen.method.tolerance
        )


def test_a_bound_is_twice_the_largest_value(flow, z, sweeps_as_seconds):
    states = {}
    invert(flow, z, callback=lambda sweep: states.update({sweep.block: sweep.x}))
    found = calibrate(flow, z)
    for number, method in enumerate(found.methods, 1):
        assert method.bound == pytest.approx(2 * float(states[number].abs().max()))


def test_what_is_slower_stays_sequential(flow, z, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(
        module, "alternate", lambda ways, repeats, warmup: {n: Timing(float(next(clock)), 0.0) for n in ways}
    )  # the first tried is fastest
    found = calibrate(flow, z)
    assert all(method == Method(segments=16) for method in found.methods) and found.error == 0.0


@pytest.mark.slow
def test_no_choice_is_kept_whose_whole_is_off(flow, z, sweeps_as_seconds, monkeypatch):
    """Each block is within the tolerance, but the chain is not, whatever is tried: then all stay sequential."""
    real = module.invert

    def off(flow, z, *settings, **more):
        out = real(flow, z, *settings, **more)
        return out._replace(x=out.x + 1) if isinstance(more.get("solver"), list) else out

    monkeypatch.setattr(module, "invert", off)
    assert all(method == Method(segments=16) for method in calibrate(flow, z).methods)


@pytest.mark.slow
def test_kept_in_a_file_and_found_by_circumstances(flow, z, tmp_path, sweeps_as_seconds):
    file = tmp_path / module.FILE
    with pytest.raises(ValueError, match=r"no calibration .* make one with  lab calibrate MODEL --batch-size 4"):
        load(file, flow, 4)
    four, one = calibrate(flow, z), calibrate(flow, z[:1])
    save(four, file)
    save(one, file)
    save(four, file)
    assert len(json.loads(file.read_text())) == 2
    assert load(file, flow, 1) == one and load(file, flow, 100) == four == load(file, flow, 4, tolerance=1e-3)
    for asked in ({"guided": True}, {"tolerance": 1e-5}):
        with pytest.raises(ValueError, match=r"has no calibration for .* it has .*batch 4"):
            load(file, flow, 4, **asked)
    with pytest.raises(ValueError, match="measured on a model with weights"):
        load(file, perturbed(seed=1), 4)
    save(calibrate(perturbed(seed=1), z), file)  # weights that were trained on: the old measurements are gone
    assert len(json.loads(file.read_text())) == 1
    for text in ("{", "[]", '[{"model": 1}]'):
        file.write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            load(file, flow, 4)


def test_wrong_requests_are_refused_before_anything_is_tried(flow, z):
    with pytest.raises(ValueError, match="tolerance was 0"):
        calibrate(flow, z, tolerance=0.0)
    with pytest.raises(ValueError, match="do not divide"):
        calibrate(flow, z, segments=[3])
    bad = z.clone()
    bad[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        calibrate(flow, bad)


def test_the_guess_metric_is_its_definition(images):
    flow = perturbed(volume_preserving=False)
    x, y = images(flow)
    found, tokens = initial_guess_metric(flow, x, y), flow.patchify(x)
    for block, norms in zip(flow.blocks, found, strict=True):
        z = block(tokens, y).z
        for name, start in (("z", z), ("zeros", torch.zeros_like(z))):
            u, own, t = block.permute(start).clone(), block.permute(tokens), block.permute(z)
            u[:, 0] = t[:, 0]
            log_scale, shift = block.next_params(u, block.condition(y))
            swept = t[:, 1:] * log_scale[:, :-1].exp() + shift[:, :-1]
            want = torch.linalg.svdvals((swept - own[:, 1:]).mean(0))[0]
            assert norms[name] == pytest.approx(float(want), rel=1e-9)
        tokens = z


def test_the_ranking_metric_is_its_definition(images):
    flow = perturbed()
    x, y = images(flow)
    out, given, want = flow(x, y), flow.patchify(x), []
    for block, z in zip(flow.blocks, out.latents, strict=True):
        log_scale = block(given, y).log_scale
        top, bottom = (torch.linalg.svdvals(w)[0] for w in block.params_out.weight.chunk(2))
        scaled = torch.linalg.svdvals(block.permute(given * (-log_scale).exp()).mean(0))[0]
        want.append(float(scaled * top + bottom))
        given = z
    found = convergence_ranking_metric(flow, x, y)
    assert found == pytest.approx([w / sum(want) for w in want]) and sum(found) == pytest.approx(1)
    assert len(convergence_ranking_metric(perturbed(volume_preserving=True), x, y)) == 3


def test_metrics_of_what_does_not_fit_and_of_an_untrained_flow(images, as_users_run):
    flow = perturbed()
    x, y = images(flow)
    for metric in (initial_guess_metric, convergence_ranking_metric):
        with pytest.raises(ValueError, match="images have shape"):
            metric(flow, x[:, :1], y)
        with pytest.raises(ValueError, match="labels"):
            metric(flow, x, y[:1])
        with pytest.raises(ValueError, match="no images"):
            metric(flow, x[:0], y[:0])
    untrained = TarFlow(flow.config).double()
    assert convergence_ranking_metric(untrained, x, y) == [1 / 3] * 3


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch):
    """Measured once, found by `lab sample` for that model, and refused for another."""
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    lab = CliRunner()
    perturbed(dtype=torch.float32).save_pretrained(tmp_path / "one")
    perturbed(dtype=torch.float32, seed=1).save_pretrained(tmp_path / "other")
    answer = lab.invoke(app, ["sample", "one", "--num", "4", "--solver", "auto"])
    assert answer.exit_code == 2 and "lab calibrate MODEL --batch-size 4" in answer.output
    answer = lab.invoke(app, ["calibrate", "one", "--batch-size", "4", "--repeats", "1"])
    assert answer.exit_code == 0 and "the whole inverse at batch 4: " in answer.output
    for words in (["--solver", "auto"], ["--solver", "jacobi"], ["--solver", "gs-jacobi", "--tolerance", "1e-3"], []):
        assert (
            lab.invoke(app, ["sample", "one", "--num", "4", "--out", words[1] if words else "plain", *words]).exit_code
            == 0
        )
    images = {name: read_image(tmp_path / name / "grid.png") for name in ("auto", "jacobi", "gs-jacobi", "plain")}
    for name, image in images.items():
        assert (image.int() - images["plain"].int()).abs().max() <= 1, name  # a step of 255
    (tmp_path / "other" / module.FILE).write_text((tmp_path / "one" / module.FILE).read_text())
    for words, message in (
        (["other", "--solver", "auto"], "measured on a model with weights"),
        (["one", "--solver", "newton"], "allowed are sequential, jacobi, gs-jacobi, auto"),
        (["one", "--solver", "jacobi", "--tolerance", "0"], "tolerance was 0.0; it must be above 0 and finite"),
        (["one", "--solver", "auto", "--guidance", "1"], "has no calibration for"),
    ):
        answer = lab.invoke(app, ["sample", *words, "--num", "4"])
        assert answer.exit_code == 2 and message in answer.output.replace("\n", " "), answer.output


def test_the_command_line_says_how_tokens_are_computed(tmp_path, monkeypatch):
    """By --compiled or --no-compiled, else as calibrated, else automatically; and several processes are told the same."""
    monkeypatch.chdir(tmp_path)
    flow = perturbed(dtype=torch.float32)
    flow.save_pretrained(tmp_path / "one")
    found = module.Calibration(
        model=provenance.weights_hash(flow),
        device=module.device_of(flow),
        dtype="float32",
        batch=4,
        guided=False,
        tolerance=1e-3,
        methods=(Method(segments=16),) * 3,
        error=0.0,
        speedup=2.0,
        trials=(),
        compiled=True,
    )
    save(found, tmp_path / "one" / module.FILE)
    drawn = []

    def draw(flow, num, *_, solver, compiled, **__):
        drawn.append((solver, compiled))
        return torch.zeros(num, 3, 8, 8)

    monkeypatch.setattr(importlib.import_module("labcore.inverse.sample"), "sample", draw)
    auto = ["--solver", "auto"]
    for words in ([], ["--compiled"], ["--no-compiled"], auto, [*auto, "--no-compiled"]):
        answer = CliRunner().invoke(app, ["sample", "one", "--num", "4", *words])
        assert answer.exit_code == 0, answer.output
    assert [compiled for _, compiled in drawn] == [None, True, False, True, False]
    assert drawn[3][0] == found.methods
    for compiled, word in ((None, None), (True, "--compiled"), (False, "--no-compiled")):
        how = Sampling(num=4, compiled=compiled)
        words = _words(tmp_path / "one", Data("fashion-mnist-12k"), EvaluationRequest(["fid"], how), tmp_path / "o")
        assert [w for w in words if w.endswith("compiled")] == ([] if word is None else [word])


class TestKeptCalibrations:
    @pytest.fixture
    def file(self, flow, z, tmp_path, sweeps_as_seconds):
        save(calibrate(flow, z, segments=[2]), tmp_path / module.FILE)
        return tmp_path / module.FILE

    def test_a_number_that_changed_is_refused_and_replaced(self, file, flow):
        (kept,), entries = read(file), json.loads(file.read_text())
        entries[0]["methods"][0]["segments"] += 1
        file.write_text(json.dumps(entries))
        with pytest.raises(ValueError, match="damaged"):
            load(file, flow, 4)
        with pytest.warns(UserWarning, match=r"damaged .* replaced now"):
            save(kept, file)
        assert load(file, flow, 4) == kept

    def test_files_without_checksum_and_version_are_read(self, file, flow):
        (kept,), (entry,) = read(file), json.loads(file.read_text())
        del entry["version"], entry[module.CHECKSUM]
        file.write_text(json.dumps([entry]))
        assert load(file, flow, 4) == kept

    def test_those_of_other_solvers_are_refused_and_dropped(self, file, flow, monkeypatch):
        (kept,) = read(file)
        monkeypatch.setattr(module, "CALIBRATION_VERSION", 99)
        with pytest.raises(ValueError, match="by version 1 of the solvers, and this is version 99; calibrate again"):
            load(file, flow, 4)
        new = kept.model_copy(update={"version": 99, "batch": 7})
        save(new, file)
        assert read(file) == [new]
