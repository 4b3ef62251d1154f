"""The explorables: what the site adds to their pages, and the pages in Chromium, moved by mouse and keyboard.

Values are drawn anew for each run; PYTEST_SEED repeats them. Screenshots are kept in browser-screenshots/.
"""

import contextlib
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.explorables import served
from labcore.data import to_float
from labcore.data.spiral import Spiral
from labcore.inverse.guided_density import guided_log_prob
from labcore.site import docs, explorables, spiral

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "browser-screenshots"
SECONDS = 180
SCRIPTS = sorted((ROOT / explorables.PLACE).glob("*.js"))
PAGES = [path.stem for path in SCRIPTS if path.stem != "shared"]


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one page."""
    place = tmp_path / "checkout" / explorables.PLACE
    place.mkdir(parents=True)
    for name in ("student.md", "student.js"):
        (place / name).write_text(name)
    return tmp_path / "checkout"


def test_parts_are_made_once_and_a_missing_one_is_told(checkout, tmp_path, monkeypatch):
    made, told = [], []

    def models(folder):
        made.append(folder)
        (folder / "student.onnx").write_text("a graph")

    def npm(folder):
        raise FileNotFoundError("no npm here")

    monkeypatch.setattr(explorables, "write_models", models)
    monkeypatch.setattr(explorables, "fetch_runtime", npm)
    for number in range(2):
        explorables.add(tmp_path / str(number), tmp_path / "kept", checkout, told.append)
        place = tmp_path / str(number) / explorables.PLACE
        assert {path.name for path in place.iterdir()} == {"student.js", "models"}
        assert (place / "models" / "student.onnx").read_text() == "a graph"
    assert len(made) == 1 and told == ["the pages in docs/explore are built without runtime: no npm here"] * 2


def test_another_package_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    def pack(command, **_):
        (Path(command[-1]) / "onnxruntime-web.tgz").write_bytes(b"something else")

    monkeypatch.setattr(subprocess, "run", pack)
    with pytest.raises(ValueError, match="the SHA-512 of npm's onnxruntime-web@"):
        explorables.fetch_runtime(tmp_path)


def test_scripts_load_nothing_from_elsewhere():
    for path in SCRIPTS:
        assert not re.search(r"(?<!http:)//\w+\.|https?://(?!www\.w3\.org/2000/svg)", path.read_text()), path


def test_every_page_has_a_still_picture_with_a_description_and_an_entry():
    index = (ROOT / explorables.PLACE / "index.md").read_text()
    for name in PAGES:
        page = (ROOT / explorables.PLACE / f"{name}.md").read_text()
        (picture,) = re.findall(r'<img src="([^"]+)" width="\d+" alt="[^"]{40,}">', page)
        assert (ROOT / explorables.PLACE / picture).stat().st_size > 1000
        assert f"({name}.md)" in index and f"docs/explore/{name}.md" in docs.SECTIONS["Explore"]


@torch.no_grad()
def test_the_committed_flow_of_two_pixels_knows_their_density(tmp_path):
    flow, exact = spiral.load(), Spiral(spiral.CLASSES)
    drawn = exact.draw(900, 1)
    x = to_float(drawn.images)
    x += spiral.NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    divergence = (exact.log_prob(x, drawn.labels, spiral.NOISE) - flow.log_prob(x, drawn.labels)).mean()
    assert abs(divergence) < 0.03
    with torch.enable_grad():
        assert spiral.train_flow(tmp_path, steps=2).config == flow.config


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The pages, as `make docs` builds them."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"the models of these pages need {name}: pip install 'labcore[onnx]'")
    folder = docs.build(tmp_path_factory.mktemp("site")).parent
    if not (folder / explorables.PLACE / "runtime").is_dir():
        pytest.skip("npm did not fetch onnxruntime-web")
    return folder


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield found


@contextlib.contextmanager
def opened(window, address: str, name: str, width: int = 1400, scheme: str = "light", live: bool = True):
    """A page of the site, once its panel is live; at the end nothing has failed or been asked of another host."""
    page = window.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    page.set_default_timeout(1000 * SECONDS)
    errors, others = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda asked: others.append(asked.url) if not asked.url.startswith((address, "data:")) else None)
    page.goto(f"{address}/{explorables.PLACE}/{name}.html")
    if live:
        page.wait_for_selector(".explorable.live")
    yield page
    assert errors == [] and others == []
    page.close()


def pixels(page) -> str:
    """What the canvases of the panel show."""
    return page.evaluate("[...document.querySelectorAll('.explorable canvas')].map(c => c.toDataURL()).join()")


def changes(page, before: str) -> None:
    """Wait until the canvases show something else."""
    page.wait_for_function(
        "before => [...document.querySelectorAll('.explorable canvas')].map(c => c.toDataURL()).join() !== before",
        arg=before,
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 800, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits(window, address, name, width, scheme):
    SCREENSHOTS.mkdir(exist_ok=True)
    with opened(window, address, name, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".still").is_hidden()
        page.screenshot(path=SCREENSHOTS / f"explore-{name}-{width}-{scheme}.png", full_page=True)


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_every_control_changes_the_pictures(window, address, chances, name):
    with opened(window, address, name) as page:
        for slider in page.locator(".explorable input[type=range]").all():
            before = pixels(page)
            low = slider.evaluate("s => s.valueAsNumber === Number(s.min)")
            slider.press("ArrowRight" if low else "Home")
            changes(page, before)
            before, box = pixels(page), slider.bounding_box()
            page.mouse.click(box["x"] + box["width"] * chances.uniform(0.5, 0.95), box["y"] + box["height"] / 2)
            changes(page, before)
        for select in page.locator(".explorable select:not([name=tool])").all():
            before, now = pixels(page), select.input_value()
            others = select.evaluate("s => [...s.options].map(o => o.value)")
            select.select_option(chances.choice([value for value in others if value != now]))
            changes(page, before)


@pytest.mark.browser
def test_sweeps_make_one_more_token_exact_each_time(window, address, chances):
    with opened(window, address, "sweeps") as page:
        summary = page.locator("#summary")
        page.locator("[name=block]").select_option(str(chances.randint(1, 8)))
        page.locator("[name=picture]").select_option(str(chances.randint(0, 9)))
        for sweeps in range(1, chances.randint(5, 10)):
            page.locator("#sweep").press("Enter")
            page.wait_for_function(
                "start => document.getElementById('summary').textContent.startsWith(start)", arg=f"After {sweeps} sweep"
            )
            correct = int(re.search(r": (\d+) of 49", summary.inner_text())[1])
            assert correct > sweeps
        page.locator("#play").click()
        page.wait_for_function(
            "/largest error is \\d\\.\\de-[5-9]/.test(document.getElementById('summary').textContent)"
        )


@pytest.mark.browser
def test_a_picture_is_marked_drawn_and_dropped(window, address, chances, tmp_path):
    from PIL import Image

    with opened(window, address, "edit") as page:
        given, count = (
            page.locator("#given"),
            lambda: int(re.search(r", (\d+) of", given.get_attribute("aria-label"))[1]),
        )
        page.get_by_role("button", name="All tokens known").click()
        assert count() == 0
        given.hover()  # waits until the page has scrolled
        box, before = given.bounding_box(), pixels(page)
        row = box["y"] + box["height"] * chances.uniform(0.1, 0.9)
        page.mouse.move(box["x"] + 1, row)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, row, steps=30)
        page.mouse.up()
        changes(page, before)
        assert count() == 7
        given.focus()
        for key in ("ArrowLeft", "ArrowUp", "Space"):  # the last token's place in the row before the last
            page.keyboard.press(key)
        assert count() in (6, 8)
        page.locator("[name=tool]").select_option("draw")
        before = pixels(page)
        given.click()
        changes(page, before)
        Image.linear_gradient("L").save(tmp_path / "own.png")
        before = pixels(page)
        page.locator("[name=file]").set_input_files(tmp_path / "own.png")
        changes(page, before)
        (tmp_path / "own.txt").write_text("no picture")
        page.locator("[name=file]").set_input_files(tmp_path / "own.txt")
        page.get_by_text("own.txt is no picture").wait_for()


def numbers_at(x, y, w, noise):
    """(log density, score) of both maps at a picture (1, 1, 1, 2): the exact one, normalised on the square, and the flow's."""
    exact, flow = Spiral(spiral.CLASSES), spiral.load().double()
    side, reach = 64, 1.5
    along = -reach + (torch.arange(side, dtype=torch.float64) + 0.5) * 2 * reach / side
    mesh = torch.cartesian_prod(along, along).view(-1, 1, 1, 2)
    on_mesh = exact.guided(mesh, y.expand(len(mesh)), w, noise).logsumexp(0) + math.log((2 * reach / side) ** 2)
    x = x.requires_grad_(True)
    of_flow = guided_log_prob(flow, x, y, torch.full((1,), w, dtype=torch.float64))
    for log in (exact.guided(x, y, w, noise) - on_mesh, of_flow):
        (score,) = torch.autograd.grad(log.sum(), x)
        yield log.item(), score.flatten()


@pytest.mark.browser
def test_numbers_of_two_pixels_are_those_of_torch(window, address, chances):
    with opened(window, address, "spiral") as page:
        for turn in range(3):
            label, w, noise = chances.randint(-1, 2), chances.randint(0, 15) / 10, chances.randint(2, 15) / 50
            before = pixels(page)
            page.locator("[name=label]").select_option(str(label))
            page.locator("[name=guidance]").fill(str(w))
            page.locator("[name=noise]").fill(str(noise))
            arm = Spiral(spiral.CLASSES).draw(30, chances.randint(0, 99)).images[3 * turn + max(label, 0)]
            right, up = (arm.flatten() / 127.5 - 1).tolist()
            map_ = page.locator(chances.choice(["#exact", "#flow"]))
            map_.scroll_into_view_if_needed()
            box = map_.bounding_box()
            map_.click(position={"x": box["width"] * (right / 3 + 0.5), "y": box["height"] * (0.5 - up / 3)})
            map_.press("ArrowUp")
            changes(page, before)
            page.wait_for_function(
                """settings => ['exact', 'flow'].every(id => document.getElementById(id).ariaLabel.includes(settings))
                    && document.getElementById('exact').ariaLabel.includes('NOISE')""".replace(
                    "NOISE", f"noise {noise:g},"
                ),
                arg=f"guidance {w:g}.",
            )
            page.wait_for_timeout(300)  # the last of several answers
            said = page.locator("#exact").get_attribute("aria-label")
            at = [float(value) for value in re.findall(r"-?\d\.\d\d", said)[-2:]]
            assert abs(at[0] - right) < 0.02 and abs(at[1] - up - 0.05) < 0.02
            x = torch.tensor(at, dtype=torch.float64).view(1, 1, 1, 2)
            for name, (log, score) in zip(
                ("exact", "flow"), numbers_at(x, torch.tensor([label]), w, noise), strict=True
            ):
                assert float(page.locator(f"#{name}-log").inner_text()) == pytest.approx(log, abs=2e-3)
                shown = [float(value) for value in page.locator(f"#{name}-score").inner_text().split(",")]
                assert shown == pytest.approx(score.tolist(), abs=0.1 + 0.02 * float(score.norm())), name


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_without_its_parts_says_so(window, site, tmp_path, name):
    bare = tmp_path / "site"
    shutil.copytree(site / explorables.PLACE, bare / explorables.PLACE, ignore=shutil.ignore_patterns("models"))
    with served(bare) as address, opened(window, address, name, live=False) as page:
        page.wait_for_function("document.getElementById('message').textContent.includes('is missing on this site')")
        assert page.locator(".still img").is_visible() and page.locator(".panel").is_hidden()
    page = window.new_page()
    page.goto((site / explorables.PLACE / f"{name}.html").as_uri())
    assert "python -m http.server" in page.locator("#message").inner_text()
    assert page.locator(".still img").is_visible() and page.locator(".panel").is_hidden()
    page.close()
