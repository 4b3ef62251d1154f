"""A student without a denoising block, whose images the score of its flow denoises."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from conftest import perturbed
from test_biflow import SIZES, backward

from labcore import sample
from labcore.cli.draw import claim_images
from labcore.data.transforms import to_uint8
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.record import identity
from labcore.flows.tarflow import TarFlow
from labcore.inverse.score_denoised import ScoreDenoised
from labcore.provenance import weights_hash
from labcore.runs.denoising import check_denoising, find_denoised, with_denoising
from labcore.train import checkpoint
from labcore.yamlfile import dump_yaml

pytestmark = pytest.mark.usefixtures("as_users_run")


@pytest.fixture
def noisy():
    """A student without a denoising block."""
    return backward(denoiser=False).eval()


@pytest.fixture
def flow() -> TarFlow:
    return perturbed(**SIZES, num_classes=4, noise_std=0.3)


def tweedie(flow: TarFlow, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """x + noise_std^2 grad log p(x), by autograd of the log-likelihood."""
    x = x.detach().requires_grad_()
    (score,) = torch.autograd.grad(flow.log_prob(x, y).sum(), x)
    return (x + flow.config.noise_std**2 * score).detach()


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_the_flows_score_denoises_what_one_pass_gives(noisy, flow, guidance):
    z, y = torch.randn(5, 16, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, -1])
    with torch.no_grad():  # short attention takes another path for gradients
        before = noisy(z, y, guidance)
    out = ScoreDenoised(noisy, flow)(z, y, guidance)
    torch.testing.assert_close(out.x, tweedie(flow, before.x, y))
    assert (out.x - before.x).abs().mean() > 1e-3, "denoising changes the images"
    assert all(torch.equal(a, b) for a, b in zip(out.states, before.states, strict=True))
    assert not out.x.requires_grad


def test_samples_are_the_denoised_images_of_the_same_noise(noisy, flow):
    y = torch.arange(6) % 4
    plain = sample(noisy, 6, y, seed=3, clip=False)
    found = sample(ScoreDenoised(noisy, flow), 6, y, seed=3, clip=False, batch_size=4)
    torch.testing.assert_close(found, tweedie(flow, plain, y))
    with pytest.raises(ValueError, match="a student has no noise_std"):
        sample(ScoreDenoised(noisy, flow), 2, noise_std=0.1)


def test_drawn_images_belong_to_flow_and_learned_inverse(noisy, flow, tmp_path):
    """Other weights of the flow, or another noise_std, are other images."""
    noisy, flow = noisy.float(), flow.float()
    both = ScoreDenoised(noisy, flow)
    drawn = generate(both, Sampling(num=6, chunk=4, seed=3), tmp_path)
    assert torch.equal(drawn.images, to_uint8(sample(both, 6, torch.arange(6) % 4, seed=3, batch_size=4)))
    assert drawn.made["denoised_by"]["score_of"] == weights_hash(flow)
    assert drawn.made["denoised_by"]["noise_std"] == 0.3 and json.dumps(drawn.made)
    other = TarFlow(flow.config.replace(noise_std=0.2))
    other.load_state_dict(flow.state_dict())
    prints = {generate(m, Sampling(num=6, chunk=4, seed=3), tmp_path).fingerprint() for m in (noisy, both)}
    prints.add(generate(ScoreDenoised(noisy, other), Sampling(num=6, chunk=4, seed=3), tmp_path).fingerprint())
    assert len(prints) == 3
    assert identity(both) != identity(noisy)


def test_what_does_not_fit_is_refused(noisy, flow):
    with pytest.raises(ValueError, match="has a denoising block; the score is for one without"):
        ScoreDenoised(backward(), flow)
    with pytest.raises(ValueError, match=r"gives images of \(1, 8, 8\), the flow takes \(3, 8, 8\)"):
        ScoreDenoised(noisy, perturbed())
    with pytest.raises(ValueError, match="denoising was 'magic'; allowed are learned, score, none"):
        check_denoising("magic", noisy.config)
    with pytest.raises(ValueError, match="denoising was 'score'; it is for students"):
        check_denoising("score", flow.config)
    with pytest.raises(ValueError, match=r"denoising was 'learned'; .* no denoising block allows score or none"):
        check_denoising("learned", noisy.config)
    for value in ("score", "none"):
        with pytest.raises(ValueError, match=f"denoising was '{value}'; .* a denoising block allows learned"):
            check_denoising(value, backward().config)
    with pytest.raises(ValueError, match="denoising was 'score', and no flow was given"):
        with_denoising(noisy, "score")
    for model, values in ((noisy, (None, "none")), (backward(), (None, "learned")), (flow, (None,))):
        assert all(with_denoising(model, value) is model for value in values)


def test_a_run_names_the_flow_that_denoises(noisy, flow, tmp_path, monkeypatch):
    run = tmp_path / "run"
    noisy.float().save_pretrained(run / "model")
    with pytest.raises(ValueError, match=r"no run next to .* names the flow that it inverts"):
        find_denoised(run, "score")
    assert not isinstance(find_denoised(run), ScoreDenoised)
    flow.float().save_pretrained(tmp_path / "flow")
    (run / "config.yaml").write_text(dump_yaml({"flow": str(tmp_path / "flow")}))
    for place in (run, run / "model"):
        found = find_denoised(place, "score")
        assert (weights_hash(found.model), weights_hash(found.flow)) == (weights_hash(noisy), weights_hash(flow))
    taught_by = {"run": {"flow": weights_hash(flow)}}
    monkeypatch.setattr(checkpoint, "folders", lambda place: [Path("step-2")] if place == run else [])
    monkeypatch.setattr(checkpoint, "read_state", lambda place: taught_by)
    assert isinstance(find_denoised(run, "score"), ScoreDenoised)
    taught_by["run"]["flow"] = "0" * 16
    for place in (run, run / "model"):
        with pytest.raises(ValueError, match="has other weights than the flow that taught"):
            find_denoised(place, "score")


def test_the_command_line_draws_so(noisy, flow, tmp_path):
    from typer.testing import CliRunner

    from labcore.cli.app import app

    noisy.float().save_pretrained(tmp_path / "run" / "model")
    flow.float().save_pretrained(tmp_path / "flow")
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml({"flow": str(tmp_path / "flow")}))
    words = ["sample", str(tmp_path / "run"), "--num", "4", "--seed", "1"]
    for name in ("none", "score"):
        done = CliRunner().invoke(app, [*words, "--denoising", name, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    pictures = [(tmp_path / name / "images" / "00000.png").read_bytes() for name in ("none", "score")]
    assert pictures[0] != pictures[1]
    settings = json.loads((tmp_path / "score" / "settings.json").read_text())
    claim_images(tmp_path / "score", settings)
    assert settings["denoised_by"]["score_of"] == weights_hash(flow)
    again = CliRunner().invoke(app, [*words, "--denoising", "none", "--out", str(tmp_path / "score")])
    assert again.exit_code == 2 and "denoised_by" in again.output


def test_words_for_several_processes_name_the_denoising(tmp_path):
    from labcore.data.datasets import Data
    from labcore.evaluate.session import EvaluationRequest
    from labcore.runs.evaluate import _words

    data = Data("fashion-mnist-12k")
    request = EvaluationRequest(["fid"], Sampling(num=4))
    words = _words(tmp_path, data, request, tmp_path / "a.json", "score")
    assert words[words.index("--denoising") + 1] == "score"
    assert "--denoising" not in _words(tmp_path, data, request, tmp_path / "a.json")


def test_words_for_several_processes_read_a_folder_in_the_same_way(tmp_path, monkeypatch):
    """A run whose pictures were split by another rule than those that are measured."""
    from labcore.data.datasets import Data
    from labcore.evaluate.session import EvaluationRequest
    from labcore.runs import own_data
    from labcore.runs.evaluate import _words

    data = Data("folder", str(tmp_path), 8, 3, background="#ff0000", split_seed=2)
    words = _words(tmp_path, data, EvaluationRequest(["fid"], Sampling(num=4)), tmp_path / "a.json")
    settings = [after for word, after in itertools.pairwise(words) if word == "--set"]
    trained = dict(crop="adm", test_share=0.5, background="black")
    monkeypatch.setattr(own_data, "run_section", lambda model, section: trained)
    model = perturbed(image_size=8, channels=3).config
    assert own_data.source_of("run", model, words[words.index("--data") + 1], settings=settings) == data
