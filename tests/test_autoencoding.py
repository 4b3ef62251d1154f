"""What autoencoders keep: identities of the measures, and the small one that ships."""

import json
import math

import pytest
import torch

from labcore import latents, zoo
from labcore.config import RunConfig
from labcore.data import load, to_float
from labcore.evaluate.autoencoding import keep, psnr, spectrum
from labcore.latents import Pixels
from labcore.latents.weights import SHIPPED, SHIPPED_FOLDER
from labcore.presets import PRESETS
from labcore.rng import StepNoise
from labcore.train.reconstruction import Compressor, CompressorConfig, Reconstruction, ReconstructionConfig
from labcore.types import Batch
from labcore.viz import latents as figures


def test_what_nothing_is_lost_of_comes_back_whole():
    x = torch.rand(3, 2, 8, 8) * 2 - 1
    kept = keep(Pixels(2), x)
    assert torch.equal(kept.back, x) and torch.equal(kept.final, x) and kept.psnr.min() > 100


def test_psnr_of_a_constant_error():
    x = torch.zeros(2, 1, 4, 4)
    torch.testing.assert_close(psnr(x, x + 0.2), torch.full((2,), 20.0))
    torch.testing.assert_close(psnr(x, x + 0.02), torch.full((2,), 40.0))


@pytest.mark.parametrize("cycles", [1, 3])
def test_a_wave_has_its_power_at_its_frequency(cycles):
    side = 16
    wave = torch.sin(2 * math.pi * cycles * torch.arange(side) / side).expand(2, 1, side, side)
    found = spectrum(wave, 0.5 * wave)
    assert int(found.images.argmax()) == cycles and found.images[cycles] > 100 * found.images.sum() / 101
    torch.testing.assert_close(found.lost, 0.25 * found.images)
    assert found.cycles.tolist() == list(range(side // 2 + 1))


def test_all_power_is_the_variance():
    """Parseval, of images without power in the corners of the plane of frequencies, which no ring holds."""
    side, g = 12, torch.Generator().manual_seed(0)
    along = torch.fft.fftfreq(side, 1 / side)
    ring = (along[:, None].square() + along.square()).sqrt().round().long()
    noise = torch.fft.fft2(torch.randn(3, 2, side, side, generator=g, dtype=torch.float64))
    x = torch.fft.ifft2(noise * (ring <= side // 2)).real
    found = spectrum(x, x)
    count = torch.bincount(ring.flatten())[: side // 2 + 1]
    assert found.images[0].abs() < 1e-12 and found.lost.sum() == 0
    total = float((found.images * count).sum()) / side**2
    assert total == pytest.approx(float(x.var((2, 3), correction=0).mean()), rel=1e-9)


def test_images_that_are_not_square_are_refused(as_users_run):
    with pytest.raises(ValueError, match="give square ones"):
        spectrum(torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6))


@pytest.mark.slow
def test_the_loss_of_an_autoencoder_is_error_and_divergence():
    torch.manual_seed(0)
    model = Compressor(CompressorConfig(widths=(8, 8), groups=4))
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    batch = Batch(x, None, torch.arange(3), torch.zeros(3, dtype=torch.bool))
    noise = StepNoise(0, 0, 3, "cpu")
    loss, logs = Reconstruction(ReconstructionConfig(kl=0.5))(model, batch, noise)
    posterior = model.network.encode(x).latent_dist
    mean, variance = posterior.mean.double(), posterior.var.double()
    kl = 0.5 * (mean.square() + variance - 1 - variance.log()).sum((1, 2, 3)).mean() / 64
    z = posterior.mean + posterior.std * noise.normal("latents", (4, 4, 4))
    mse = (model.network.decode(z).sample - x).square().mean()
    assert float(logs["kl_nats_per_pixel"]) == pytest.approx(float(kl), rel=1e-4)
    assert float(loss) == pytest.approx(float(mse + 0.5 * kl), rel=1e-4)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


class TestShipped:
    def record(self):
        return json.loads((SHIPPED_FOLDER / "record.json").read_text())

    @pytest.mark.slow
    def test_it_keeps_what_its_card_says(self):
        codec, test = latents.load(SHIPPED), load("fashion-mnist-12k", "test")
        kept = keep(codec, to_float(test.images[:500]))
        assert kept.final.shape == (500, 4, 7, 7) and codec.name == SHIPPED
        assert float(kept.psnr.mean()) == pytest.approx(self.record()["psnr_db"], abs=0.5)
        assert float(kept.psnr.mean()) > 20
        assert 0.9 < float(kept.final.std()) < 1.1

    def test_its_card_has_its_record(self):
        card, record = (SHIPPED_FOLDER / "README.md").read_text(), self.record()
        assert f"{record['psnr_db']:.2f} dB" in card and f"{record['parameters']:,} parameters" in card
        assert record["recipe"] == latents.load(SHIPPED).recipe()

    def test_it_is_small_and_no_model_to_draw_from(self):
        assert sum(file.stat().st_size for file in SHIPPED_FOLDER.iterdir()) < 4e6
        assert SHIPPED not in zoo.NAMES

    def test_flows_of_its_latents_fit(self):
        config = RunConfig(**PRESETS["latent-small"])
        assert config.model.tokens == 49 and config.model.image_shape == (4, 7, 7)
        assert latents.square_pixels(config.model) == dict(image_size=28, channels=1)

    def test_figures_can_be_drawn(self):
        x = to_float(load("fashion-mnist-12k", "test").images[:20])
        kept = keep(latents.load(SHIPPED), x)
        for figure in (
            figures.spectra(spectrum(x, kept.back)),
            figures.statistics(kept.final, kept.raw.chunk(2, 1)[1], 0.2),
            figures.statistics(kept.final, None, 0.2),
            figures.by_noise({"noise": [0.1, 0.2], "value": [30.0, 20.0]}, {"floor": 5.0}, "FID"),
        ):
            assert all(axes.get_xlabel() for axes in figure.axes if axes.axison)
