"""Results with NaN or infinity end a call, which says where they began; arguments that hold them are refused."""

import pickle

import pytest
import torch
from conftest import perturbed
from test_biflow import backward

from labcore import denoise, invert, sample, zoo
from labcore.align.features import features
from labcore.biflow.edit import change_class, inpaint
from labcore.biflow.trajectory import trajectory
from labcore.data.images import ImageData
from labcore.data.transforms import quantize, save_png, tile, to_uint8
from labcore.encoders import untrained
from labcore.evaluate.classifier import recognised
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.hiddens import hidden_features
from labcore.evaluate.statistics import moments
from labcore.finite import NotFinite, check_result, images_from
from labcore.latents.codec import Pixels
from labcore.nn.classifier import Classifier, ClassifierConfig
from labcore.nn.embed import check_labels
from labcore.train.monitor import state_rms

NAN, INF = float("nan"), float("inf")
Y = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def flow():
    return perturbed()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def broken(block: int, **changes):
    """A flow whose block, counted from 1, overflows for every token but the first."""
    bad = perturbed(**changes)
    with torch.no_grad():
        bad.blocks[block - 1].params_out.bias.fill_(-1e4)
    return bad


def test_a_pass_names_block_and_images(flow, x):
    x[2, 0, 0, 0] = 1e308
    x[3] = INF
    with pytest.raises(NotFinite, match=r"2 of 4 images are not finite.* from block 1 on, the first is image 2"):
        flow(x, Y)
    with pytest.raises(NotFinite, match=r"4 of 4 .* from block 2 on"):
        broken(2)(torch.zeros_like(x), Y)
    with pytest.raises(NotFinite, match=r"1 of 4 images .*first is image 1"):
        flow.log_prob(torch.where(torch.arange(4)[:, None, None, None] == 1, NAN, x.clamp(-1, 1)), Y)


def test_a_density_may_overflow_where_z_does_not(flow, x):
    flow.prior_var.fill_(1e-310)
    assert flow(x, Y).z.isfinite().all()
    with pytest.raises(NotFinite, match="log_prob: 4 of 4"):
        flow.log_prob(x, Y)


def test_training_steps_are_not_looked_at(flow, x):
    """Nor diagnoses: a step may not wait for a device, and a flow that diverges is logged."""
    x[0] = NAN
    assert not flow.train()(x, Y).z.isfinite().all()
    assert not features(flow, x, Y, [(1, 1)], "detach")[1, 1].isfinite().all()
    flow.eval()
    assert not trajectory(flow, x, Y, x).z.isfinite().all()
    assert "state_rms/block_3" in state_rms(broken(2), torch.zeros_like(x), Y)
    model = backward().train()
    assert not model(torch.full((2, 16, 4), NAN, dtype=model.dtype), torch.tensor([0, 1])).x.isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_torchs_transforms_go_through(x):
    flow = perturbed(num_classes=0)
    each = torch.func.vmap(lambda image: flow.log_prob(image[None])[0])(x)
    assert torch.allclose(each, flow.log_prob(x))


@pytest.mark.parametrize("solver", ["sequential", "jacobi"])
@pytest.mark.filterwarnings("ignore:block")
def test_an_inverse_that_overflows_is_refused(flow, solver):
    z = torch.zeros(4, 16, 12, dtype=torch.float64)
    z[1:3] = 1e308
    with pytest.raises(NotFinite, match=r"invert: 2 of 4 .* from block 3 on, the first is image 1; guidance was 0"):
        invert(flow, z, Y, solver=solver)
    z[1, 5, 5] = NAN
    with pytest.raises(ValueError, match="z holds NaN or infinity in 1 of 4 images, first in image 1"):
        invert(flow, z, Y, solver=solver)


def test_samples_are_looked_at_after_denoising_too():
    """Guidance leads to images that are finite and have no score: these were drawn black."""
    flow, y = zoo.load("fashion-tarflow"), torch.tensor([1])
    raw = sample(flow, 1, y, guidance=18.0, seed=4, first=1, noise_std=0.0, clip=False)
    assert raw.isfinite().all()
    with pytest.raises(NotFinite, match=r"denoise: 1 of 1 images .*first is image 0; noise_std was"):
        denoise(flow, raw, y)
    with pytest.raises(NotFinite, match=r"denoise: 1 of 1 images .*first is image 1; guidance was 18"):
        sample(flow, 1, y, guidance=18.0, seed=4, first=1)


def test_a_learned_inverse_names_its_block(x):
    model = backward().eval()
    with torch.no_grad():
        model.heads[1].out.bias.fill_(INF)
    z = torch.zeros(3, model.config.tokens, model.config.token_dim, dtype=model.dtype)
    with pytest.raises(NotFinite, match=r"the student: 3 of 3 .* from block 2 on"):
        model(z, torch.tensor([0, 1, 2]))
    with pytest.raises(NotFinite, match="first is image 7"):
        sample(model, 3, torch.tensor([0, 1, 2]), first=7)


def test_features_name_the_site(flow, x):
    x[3] = 1e308
    with pytest.raises(
        NotFinite, match=r"features: 1 of 4 .* at site \(2, 1\), the first is image 3; direction was 'detach'"
    ):
        features(flow, x, Y, [(2, 1)], "detach", states=flow.unchecked(x, Y))


def test_rows_of_probabilities_sum_to_one(flow, x):
    rows = torch.full((4, 5), 0.2, dtype=torch.float64)
    assert torch.allclose(flow.log_prob(x, rows), flow.log_prob(x))
    for value, message in ((0.5, "row 2 sums to 1.3"), (NAN, "row 2 sums to nan"), (-0.1, "below 0")):
        wrong = rows.clone()
        wrong[2, 0] = value
        with pytest.raises(ValueError, match=f"1 of 4 rows of class probabilities .*{message}"):
            flow.log_prob(x, wrong)
    check_labels(torch.softmax(torch.randn(64, 1000).to(torch.bfloat16), 1), 64, 1000)  # rounded


def test_edits_are_looked_at(flow, x):
    overflows = lambda z, y: torch.where(torch.arange(4)[:, None, None, None] > 1, INF, 0.0).expand(4, 3, 8, 8)  # noqa: E731
    known = torch.ones(8, 8, dtype=torch.bool)
    with pytest.raises(NotFinite, match="change_class: 2 of 4"):
        change_class(flow, overflows, x, Y, Y)
    with pytest.raises(NotFinite, match="inpaint: 2 of 4"):
        inpaint(flow, overflows, x, known, Y)
    x[1, 0, 0, 0] = NAN
    for call in (lambda: change_class(flow, overflows, x, Y, Y), lambda: inpaint(flow, overflows, x, known, Y)):
        with pytest.raises(ValueError, match="x holds NaN or infinity in 1 of 4"):
            call()


def test_no_pixel_stands_for_nan(tmp_path, x, as_users_run):
    x[3, 1, 2, 2] = INF
    for call in (to_uint8, quantize, lambda x: tile(x, 2)):
        with pytest.raises(ValueError, match="x holds NaN or infinity in 1 of 4 images, first in image 3"):
            call(x)
    with pytest.raises(ValueError, match="x holds NaN"):
        to_uint8(x[3])
    with pytest.raises(ValueError, match="save_png takes uint8"):
        save_png(torch.zeros(4, 4, 1), tmp_path / "a.png")


def test_nothing_is_recognised_in_nan(x):
    classifier = Classifier(ClassifierConfig(image_size=8, channels=3, width=8)).double().eval()
    x[1] = NAN
    with pytest.raises(ValueError, match="x holds NaN or infinity in 1 of 4"):
        recognised(classifier, x, Y)
    with pytest.raises(NotFinite, match="the classifier: 1 of 4"):
        classifier(x)
    assert not classifier.train()(x).isfinite().all()
    with torch.no_grad():
        classifier.head.bias[0] = NAN
    with pytest.raises(NotFinite, match="first is image 0"):
        recognised(classifier.eval(), x[2:], Y[2:])


def test_pixels_are_looked_at(x):
    x[1] = NAN
    with pytest.raises(NotFinite, match="pixels: 1 of 4"):
        Pixels().raw(x)


def test_encoders_are_looked_at():
    encoder = untrained("efficientnet-lite0")
    x = torch.zeros(2, 3, 32, 32)
    x[1] = INF
    for call in (lambda: encoder.tokens(x, 7), lambda: encoder.pooled(x), lambda: encoder.logits(x)):
        with pytest.raises(ValueError, match="x holds NaN or infinity in 1 of 2"):
            call()
    for p in encoder._model.parameters():
        p.fill_(NAN)
    with pytest.raises(NotFinite, match="efficientnet-lite0: 2 of 2"):
        encoder.pooled(torch.zeros(2, 3, 32, 32))


def test_moments_name_the_row():
    rows = torch.zeros(5000, 3)
    rows[4500, 1] = NAN
    with pytest.raises(NotFinite, match=r"moments: 1 of .*first is image 4500"):
        moments(rows)


def test_stores_take_nothing_that_is_not_finite(tmp_path):
    flow = broken(2, num_classes=0).float()
    with pytest.raises(NotFinite):
        generate(flow, Sampling(num=2), tmp_path)

    black = ImageData(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(3).long(), ("a",), "toy", "test")
    with pytest.raises(NotFinite, match="first is image 0"):
        hidden_features(flow, black, [(1, 1)], tmp_path)


def test_an_error_counts_from_the_callers_first_image_and_travels():
    with pytest.raises(NotFinite) as caught, images_from(100, lambda: "guidance was 9"):
        check_result(torch.tensor([[0.0], [NAN]]), "f", "in the middle", "guidance was 8", "give less")
    text = "f: 1 of 2 images are not finite (NaN or infinity) in the middle, the first is image 101; guidance was 9; give less"
    assert str(caught.value) == text == str(pickle.loads(pickle.dumps(caught.value)))
