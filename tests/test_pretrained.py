"""Saving and loading: exact, strict, and clear about what is wrong with a file."""

import json
import shutil

import pytest
import torch
from conftest import perturbed

from labcore import TarFlow
from labcore.tensors import read_tensors, write_tensors


def test_round_trip(flow, images, tmp_path):
    flow = flow.float()
    flow.save_pretrained(tmp_path / "m")
    again = TarFlow.from_pretrained(tmp_path / "m")
    assert again.config == flow.config and not again.training
    x, y = images(flow)
    assert torch.equal(again(x, y).z, flow(x, y).z)


def test_half_precision_storage(tmp_path):
    flow = perturbed(dtype=torch.float32)
    flow.save_pretrained(tmp_path, dtype=torch.float16)
    again = TarFlow.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    for (name, a), b in zip(again.state_dict().items(), flow.state_dict().values(), strict=True):
        assert torch.equal(a, b.half().float()), name


def test_a_failed_save_leaves_what_was_there(tmp_path):
    import resource

    flow = perturbed(dtype=torch.float32)
    flow.save_pretrained(tmp_path)
    other = perturbed(dtype=torch.float32, seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="could not save the model to"):
            other.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = TarFlow.from_pretrained(tmp_path)
    assert all(torch.equal(v, flow.state_dict()[k]) for k, v in again.state_dict().items())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not save the model to"):
        flow.save_pretrained(tmp_path / "file")


def change_config(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "drop"}))


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    flow = perturbed(dtype=torch.float32)

    def fresh(name):
        return flow.save_pretrained(tmp_path / name)

    cases = []
    folder = fresh("truncated")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    cases.append((folder, ValueError, "truncated or not a safetensors file"))
    folder = fresh("text")
    (folder / "model.safetensors").write_text("not a checkpoint")
    cases.append((folder, ValueError, "truncated or not a safetensors file"))
    folder = fresh("other architecture")
    change_config(folder, layers_per_block=3)
    cases.append((folder, ValueError, "missing, first blocks.0.layers.2.*another architecture"))
    folder = fresh("other width")
    change_config(folder, width=32)
    cases.append((folder, ValueError, "of another shape.*another architecture"))
    folder = fresh("unknown key")
    change_config(folder, dropout=0.1)
    cases.append((folder, ValueError, "dropout"))
    folder = fresh("other class")
    change_config(folder, model="BackwardModel")
    cases.append((folder, ValueError, "holds a BackwardModel, not a TarFlow"))
    folder = fresh("newer")
    change_config(folder, schema=99)
    cases.append((folder, ValueError, "schema 99.*Update labcore"))
    folder = fresh("damaged config")
    (folder / "config.json").write_text('{"image_size": 8,')
    cases.append((folder, ValueError, "is damaged"))
    folder = fresh("no weights")
    (folder / "model.safetensors").unlink()
    cases.append((folder, FileNotFoundError, "has no model.safetensors"))
    (tmp_path / "empty").mkdir()
    cases.append((tmp_path / "empty", FileNotFoundError, "has no config.json and no model.safetensors"))
    cases.append((tmp_path / "nowhere", FileNotFoundError, "no folder"))
    bad = perturbed(dtype=torch.float32)
    with torch.no_grad():
        bad.blocks[1].token_in.bias[0] = float("nan")
    cases.append((bad.save_pretrained(tmp_path / "nan"), ValueError, "NaN or infinity in 1 tensors"))
    for folder, error, message in cases:
        with pytest.raises(error, match=message):
            TarFlow.from_pretrained(folder)


def test_a_hub_name_without_a_network_says_what_to_do(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=r"download config.json and model.safetensors by hand"):
        TarFlow.from_pretrained("someone/some-flow")


def test_a_hub_repository_is_loaded_like_a_folder(monkeypatch, tmp_path, images):
    import huggingface_hub

    flow = perturbed(dtype=torch.float32)
    flow.save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kw: asked.append((name, kw)) or str(tmp_path)
    )
    again = TarFlow.from_pretrained("someone/some-flow", revision="v1")
    assert asked[0][0] == "someone/some-flow" and asked[0][1]["revision"] == "v1"
    x, y = images(flow)
    assert torch.equal(again(x, y).z, flow(x, y).z)


class Hub:
    """The calls of huggingface_hub's HfApi that push_to_hub makes, on a folder."""

    def __init__(self, root):
        self.root = root

    def create_repo(self, repo_id, private, exist_ok):
        from huggingface_hub import RepoUrl

        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def file_exists(self, repo_id, name):
        return (self.root / repo_id / name).is_file()

    def upload_folder(self, repo_id, folder_path):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


def test_push_to_hub_writes_the_model_and_a_card_and_leaves_yours(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: Hub(tmp_path))
    flow = perturbed(dtype=torch.float32)
    address = flow.push_to_hub("me/my-flow")
    folder = tmp_path / "me" / "my-flow"
    assert address.endswith("me/my-flow")
    again = TarFlow.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), flow.state_dict().values(), strict=True))
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "labcore" and "tarflow" in card.data.tags
    assert 'TarFlow.from_pretrained("me/my-flow")' in card.text and "`patch_size` | 2" in card.text
    (folder / "README.md").write_text("mine")
    flow.push_to_hub("me/my-flow")
    assert (folder / "README.md").read_text() == "mine"
    flow.push_to_hub("me/my-flow", card="another")
    assert (folder / "README.md").read_text() == "another"


def test_equal_tensors_make_equal_files(tmp_path):
    """safetensors writes metadata in a random order."""
    tensors = {f"größe.{i}": torch.full((i + 1,), float(i)) for i in range(3)}
    for i in range(20):
        write_tensors(tensors, tmp_path / f"{i}.safetensors")
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(20)}) == 1
    read = read_tensors(tmp_path / "0.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize("change", [dict(noise_std=0.2), dict(affine_clamp=3.0), dict(head_dim=4)], ids=str)
def test_a_changed_setting_is_refused(tmp_path, change):
    """None of these shows in the weights' names and shapes, and all of them change results."""
    flow = perturbed(dtype=torch.float32)
    change_config(flow.save_pretrained(tmp_path), **change)
    (name, value), saved = *change.items(), getattr(flow.config, next(iter(change)))
    with pytest.raises(ValueError, match=rf"{name} was {saved!r}, now {value!r}.*make TarFlow\(config.replace"):
        TarFlow.from_pretrained(tmp_path)


def test_names_of_classes_and_the_place_of_the_autoencoder_may_be_edited(tmp_path):
    flow = perturbed(dtype=torch.float32)
    names = [f"class {i}" for i in range(flow.config.num_classes)]
    change_config(flow.save_pretrained(tmp_path), class_names=names, codec="elsewhere/vae")
    again = TarFlow.from_pretrained(tmp_path)
    assert again.config.class_names == tuple(names) and again.config.codec == "elsewhere/vae"


def test_a_model_saved_before_headers_had_its_configuration_loads(tmp_path):
    flow = perturbed(dtype=torch.float32)
    weights = flow.save_pretrained(tmp_path) / "model.safetensors"
    write_tensors(read_tensors(weights), weights)
    assert TarFlow.from_pretrained(tmp_path).config == flow.config


def test_a_setting_that_is_newer_than_the_files_has_its_default(tmp_path):
    flow = perturbed(dtype=torch.float32)
    weights = flow.save_pretrained(tmp_path) / "model.safetensors"
    values = json.loads((tmp_path / "config.json").read_text())
    old = {k: v for k, v in values.items() if k not in ("affine_clamp", "norm", "model", "schema")}
    change_config(tmp_path, **old)
    write_tensors(read_tensors(weights), weights, {"config": json.dumps(old)})
    assert TarFlow.from_pretrained(tmp_path).config == flow.config


def test_a_damaged_configuration_in_the_header_is_a_message(tmp_path):
    weights = perturbed(dtype=torch.float32).save_pretrained(tmp_path) / "model.safetensors"
    for text in ("{", "[]", '{"width": 1}'):
        write_tensors(read_tensors(weights), weights, {"config": text})
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged: the configuration in its header"):
            TarFlow.from_pretrained(tmp_path)
