"""Files that are damaged, hostile or of another kind: refused with a message, before memory is taken, nothing loaded."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from conftest import perturbed
from safetensors.torch import load_file, save_file
from test_apple import apple_state

from labcore import TarFlow
from labcore.config import TarFlowConfig
from labcore.latents import weights as autoencoders
from labcore.runs.models import find_model
from labcore.tensors import stored_tensors
from labcore.torchfile import check_records
from labcore.train import checkpoint
from labcore.weight_files import read_weights


def save_steps(run, steps=(1, 2), keep=5):
    """Checkpoints of a flow, each with other weights."""
    for step in steps:
        flow = perturbed(dtype=torch.float32, seed=step)
        training = dict.fromkeys(("optimizer", "objective", "scaler", "running", "averaged"), torch.arange(50.0))
        state = {"precision": "fp32", "run": {"train": {"betas": (0.9, 0.95)}, "odd": {10: 1, 9: 2}}}
        checkpoint.save(run, step, {"model": flow, "ema": flow}, training, state, keep)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize(
    "file", ["training.pt", "model/model.safetensors", "ema/model.safetensors", "ema/config.json", "state.json"]
)
def test_one_flipped_bit_is_seen_and_the_older_checkpoint_taken(tmp_path, file):
    save_steps(tmp_path)
    newest = checkpoint.latest_path(tmp_path)
    whole = (newest / file).read_bytes()
    for share in (0.2, 0.5, 0.8, 0.95):
        flip(newest / file, int(8 * len(whole) * share))
        with pytest.warns(UserWarning, match=r"step-00000002 is damaged: .* Resuming from step-00000001"):
            assert checkpoint.latest(tmp_path).step == 1
        (newest / file).write_bytes(whole)
    assert checkpoint.latest(tmp_path).step == 2


def test_a_training_state_whose_sha256_was_compared_is_read_once_on_resume(tmp_path, monkeypatch):
    save_steps(tmp_path)
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **options: read.append(given) or load(*given, **options))
    found = checkpoint.latest(tmp_path)
    assert not read
    checkpoint.read_training(found, torch.device("cpu"))
    assert found.step == 2 and len(read) == 1


def test_a_save_puts_files_on_the_disk_once_and_before_the_same_step_goes(tmp_path, monkeypatch):
    """The second sync is needed only where an older save of the same step is removed."""
    calls, sync, rename, remove = [], os.fsync, os.rename, checkpoint.remove_folder
    name = lambda descriptor: Path(os.readlink(f"/proc/self/fd/{descriptor}")).name  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(name(descriptor)) or sync(descriptor))
    monkeypatch.setattr(os, "rename", lambda *paths: calls.append("rename") or rename(*paths))
    monkeypatch.setattr(checkpoint, "remove_folder", lambda path: calls.append("remove") or remove(path))
    mine = {"training.pt", "state.json", "rename", "remove"}
    order = lambda: [call for call in calls if call in mine]  # noqa: E731
    save_steps(tmp_path, (1,))
    assert sorted(order()[:2]) == ["state.json", "training.pt"] and order()[2:] == ["rename"]
    calls.clear()
    save_steps(tmp_path, (1,))
    assert sorted(order()[:2]) == ["state.json", "training.pt"] and order()[2] == "remove" and order()[-1] == "rename"


def test_checkpoints_without_checksums_still_load(tmp_path):
    save_steps(tmp_path, (1,))
    path = checkpoint.latest_path(tmp_path) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in state.items() if k not in ("sha256", "digest")}))
    assert checkpoint.latest(tmp_path).step == 1


def flip_in(path, values):
    """Flip the lowest bit of the exponent of the third of these numbers, wherever they lie in a file."""
    where = path.read_bytes().index(values.numpy().tobytes()) + 8
    flip(path, 8 * where + 23)


@pytest.mark.parametrize("kind", ["ml-tarflow", "encoder", "autoencoder", "an older checkpoint"])
def test_one_flipped_bit_in_a_file_of_torch_save_is_seen(tmp_path, kind):
    """torch.load does not compare the checksums in it: without a look at them another weight is loaded."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    read, path = check_records, tmp_path / "w.pth"
    if kind == "ml-tarflow":
        read = lambda path: TarFlow.from_apple(path, 8, 2)  # noqa: E731
    elif kind == "encoder":
        read = read_weights
    elif kind == "autoencoder":
        path = tmp_path / "diffusion_pytorch_model.bin"
        (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
        read = lambda path: autoencoders._check_file(tmp_path, "AutoencoderTiny")  # noqa: E731
    else:
        path = tmp_path / checkpoint.TRAINING
        read = lambda path: checkpoint.read_training(checkpoint.Checkpoint(tmp_path, {"step": 1}), torch.device("cpu"))  # noqa: E731
    torch.save({"optimizer": values, "objective": 0, "scaler": 0, "running": 0, "averaged": 0}, path)
    flip_in(path, values)
    other = torch.load(path, weights_only=True)["optimizer"]
    assert int((other != values).sum()) == 1
    with pytest.raises(ValueError, match=r"is damaged"):
        read(path)


def test_files_of_torch_save_without_checksums_are_read(tmp_path):
    state = {"weight": torch.randn(50)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "new.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.pth", "new.pth"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], state["weight"])


def test_a_state_of_another_step_is_damage(tmp_path):
    save_steps(tmp_path)
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "step-00000002")
    shutil.copytree(folder / "step-00000001", folder / "step-00000002")
    with pytest.warns(UserWarning, match="state.json is of step 1; the folder was renamed"):
        assert checkpoint.latest(tmp_path).step == 1


def test_a_damaged_model_is_never_sampled_from(tmp_path):
    save_steps(tmp_path)
    newest = checkpoint.latest_path(tmp_path)
    flip(newest / "ema" / "model.safetensors", 8 * ((newest / "ema" / "model.safetensors").stat().st_size - 3))
    for place in (newest, newest / "ema"):
        with pytest.raises(ValueError, match="damaged"):
            find_model(place)
    with pytest.warns(UserWarning, match="Resuming from step-00000001"):
        flow = find_model(tmp_path)
    assert torch.equal(flow.prior_var, perturbed(dtype=torch.float32, seed=1).prior_var)


def test_a_damaged_finished_model_gives_way_to_the_newest_checkpoint(tmp_path):
    save_steps(tmp_path)
    good = perturbed(dtype=torch.float32, seed=2)
    good.save_pretrained(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_model(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    flip(file, 8 * (file.stat().st_size - 3))
    with pytest.raises(ValueError, match="values have changed since it was saved"):
        TarFlow.from_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="Taking the averaged weights of step-00000002 instead"):
        flow = find_model(tmp_path)
    assert all(torch.equal(v, good.state_dict()[k]) for k, v in flow.state_dict().items())


def test_linked_step_folders_are_pruned_without_touching_their_targets(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    save_steps(run, (1,))
    shutil.move(run / "checkpoints" / "step-00000001", elsewhere)
    (run / "checkpoints" / "step-00000001").symlink_to(elsewhere)
    (run / "checkpoints" / "step-00000009.tmp").symlink_to(elsewhere)
    save_steps(run, (2,), keep=1)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000002"]
    assert (elsewhere / "state.json").is_file()


def test_a_folder_that_went_away_is_said_after_saving(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save_steps(run, (1,))
    run.rename(tmp_path / "renamed")
    with pytest.raises(OSError, match=r"run was deleted or renamed .*Step 2 was saved in a new folder"):
        save_steps(run, (2,))
    assert checkpoint.latest(run).step == 2 and checkpoint.latest(tmp_path / "renamed").step == 1


def edited(folder, **changes):
    flow = perturbed(dtype=torch.float32)
    flow.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        dict(num_blocks=10**12),
        dict(layers_per_block=10**5),
        dict(num_blocks=100_000),
        dict(width=2**17),
        dict(width=8 * 10**15),
        dict(image_size=10**15),
        dict(image_size=2**14),
        dict(image_size=2**9),
        dict(num_classes=2**24),
        dict(num_classes=10**18),
        dict(channels=10**12),
        dict(channels=4096),
        dict(mlp_ratio=1e300),
        dict(mlp_ratio=1000.0),
        dict(patch_size=10**14, image_size=10**15),
        dict(head_dim=10**20),
    ],
    ids=str,
)
def test_sizes_that_the_weights_refute_take_no_memory(tmp_path, changes, monkeypatch):
    def allocate(*_):
        raise AssertionError("a model was built outside the meta device")

    folder = edited(tmp_path, **changes)
    monkeypatch.setattr("labcore.nn.pretrained.load_strictly", allocate)
    with pytest.raises(ValueError, match=r"another architecture|does not describe a TarFlow"):
        TarFlow.from_pretrained(folder)


def test_deep_config_json_is_a_message(tmp_path):
    folder = edited(tmp_path)
    (folder / "config.json").write_text('{"a": ' * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is damaged: JSON is nested too deeply"):
        TarFlow.from_pretrained(folder)


def with_tensor(folder, name, value):
    perturbed(dtype=torch.float32).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: value}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.0.token_in.bias", torch.full((16,), 1e300, dtype=torch.float64), "NaN or infinity.*as torch.float32"),
        ("blocks.0.token_in.bias", torch.ones(16, dtype=torch.complex64), "holds torch.complex64"),
        ("blocks.0.token_in.bias", torch.ones(16, dtype=torch.int8), "holds torch.int8.*convert quantised"),
        ("blocks.0.token_in.bias", torch.ones(16).to(torch.float8_e4m3fn), "holds torch.float8_e4m3fn"),
        ("prior_var", torch.full((16, 12), -1.0), "variance prior_var that is not above 0"),
        ("prior_var", torch.full((16, 12), 1e-300, dtype=torch.float64), "variance prior_var that is not above 0"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message):
        TarFlow.from_pretrained(with_tensor(tmp_path, name, value))


def test_formats_that_would_destroy_the_weights_are_refused_and_nothing_is_written(tmp_path):
    flow = perturbed(dtype=torch.float32)
    for dtype in (torch.int8, torch.complex64, torch.float8_e5m2, torch.bool):
        with pytest.raises(ValueError, match="stored as float16, bfloat16, float32 or float64"):
            flow.save_pretrained(tmp_path / "m", dtype=dtype)
    with torch.no_grad():
        flow.blocks[0].token_in.bias[0] = 1e5
    with pytest.raises(ValueError, match=r"token_in\.bias has weights that overflow in torch\.float16; take bfloat16"):
        flow.save_pretrained(tmp_path / "m", dtype=torch.float16)
    assert not (tmp_path / "m").exists()
    flow.save_pretrained(tmp_path / "m", dtype=torch.bfloat16)


def test_models_that_are_wrapped_are_saved_under_plain_names(tmp_path):
    flow = perturbed(dtype=torch.float32)
    names = set(flow.state_dict())
    flow.blocks[1] = torch.compile(flow.blocks[1], backend="eager")
    assert any("_orig_mod" in name for name in flow.state_dict())
    assert set(stored_tensors(flow)) == names
    flow.save_pretrained(tmp_path)
    assert set(TarFlow.from_pretrained(tmp_path).state_dict()) == names


def test_models_loaded_in_inference_mode_can_be_trained(tmp_path):
    perturbed(dtype=torch.float32).save_pretrained(tmp_path)
    with torch.inference_mode():
        flows = [TarFlow.from_pretrained(tmp_path), TarFlow.from_apple(apple_state(), 8, 2)]
    for flow in flows:
        flow.log_prob(torch.zeros(2, 3, 8, 8)).sum().backward()
        assert flow.blocks[0].params_out.bias.grad is not None


# ml-tarflow's checkpoints


def loaded(state, **options):
    return TarFlow.from_apple(state, 8, 2, **options)


def test_wrappers_inside_names_are_taken_off():
    state = apple_state()
    for before, after in (
        ("blocks.0.", "blocks.0._orig_mod."),
        ("blocks.1.", "_fsdp_wrapped_module.blocks.1._fsdp_wrapped_module."),
        ("blocks.2.attn_blocks.0.", "module.blocks.2.attn_blocks.0._checkpoint_wrapped_module."),
    ):
        state = {
            after + key.removeprefix(before) if key.startswith(before) else key: value for key, value in state.items()
        }
    again = loaded(state).to_apple()
    assert all(torch.equal(again[key], value) for key, value in apple_state().items())


def test_two_tensors_for_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two tensors have the name var once wrappers are taken off"):
        loaded(apple_state() | {"module.var": torch.ones(16, 12)})


@pytest.mark.parametrize("nested", [True, False])
def test_several_models_in_a_file_are_told_apart(tmp_path, nested):
    parts = {"model": apple_state(seed=1), "ema": apple_state(seed=2)}
    if nested:
        state = {**parts, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3}
    else:
        state = {f"{part}.{key}": value for part, tensors in parts.items() for key, value in tensors.items()}
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"several models: 'ema', 'model'; choose one with part"):
        loaded(tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"part was 'emma'; models in the checkpoint are: 'ema', 'model'"):
        loaded(tmp_path / "m.pth", part="emma")
    for part, tensors in parts.items():
        assert torch.equal(loaded(tmp_path / "m.pth", part=part).prior_var, tensors["var"])
    assert torch.equal(loaded({"state_dict": parts["ema"]}).prior_var, parts["ema"]["var"])
    bare = {**parts["model"], **{f"ema.{key}": value for key, value in parts["ema"].items()}}
    assert torch.equal(loaded(bare, part="").prior_var, parts["model"]["var"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("blocks.0.pos_embed", torch.zeros(1, 1).expand(10**6, 10**6), "fewer in its memory"),
        ("blocks.0.proj_in.bias", torch.ones(64, dtype=torch.int8), "holds torch.int8"),
        ("var", -torch.ones(16, 12), "variance prior_var that is not above 0"),
        ("var", 3, "no dense tensor"),
        ("blocks.0.proj_in.bias", torch.full((64,), 1e300, dtype=torch.float64), "NaN or infinity"),
    ],
)
def test_hostile_state_dicts_are_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        loaded({**apple_state(), key: value})


def test_bounds_of_sizes():
    small = dict(image_size=8, patch_size=2, width=16, num_blocks=1, layers_per_block=1, head_dim=8)
    assert TarFlowConfig(**{**small, "image_size": 512, "patch_size": 2}).tokens == 2**16
    with pytest.raises(ValueError, match="makes 262144 tokens; at most 65536"):
        TarFlowConfig(**{**small, "image_size": 512, "patch_size": 1})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flows_of_16_bits_are_refused_with_what_to_do(dtype):
    from labcore import BackwardConfig, BackwardModel, denoise, invert, sample

    flow = perturbed(dtype=torch.float32).to(dtype)
    c = flow.config
    x, z = torch.zeros(2, *c.image_shape), torch.zeros(2, c.tokens, c.token_dim)
    learned = BackwardModel(
        BackwardConfig(image_size=8, patch_size=2, width=16, num_blocks=1, layers_per_block=1, head_dim=8)
    )
    calls = [lambda: flow(x), lambda: flow.log_prob(x.to(dtype))]
    calls += [lambda: invert(flow, z.to(dtype)), lambda: denoise(flow, x.to(dtype)), lambda: sample(flow, 2)]
    calls += [lambda: learned.to(dtype)(z.to(dtype))]
    for call in calls:
        with pytest.raises(ValueError, match=r"allowed are float32 and float64: .*model\.float\(\).*torch\.autocast\("):
            call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert flow.float()(x).z.isfinite().all()


def test_empty_batches_are_empty_images_or_a_message(tmp_path):
    from test_latents import made

    from labcore import latents
    from labcore.biflow.edit import change_class
    from labcore.data.transforms import tile

    codec = latents.load(str(made("AutoencoderKL", tmp_path / "vae")))
    raw = codec.raw(torch.zeros(0, 3, 16, 16))
    assert raw.shape == codec.raw(torch.zeros(1, 3, 16, 16))[:0].shape
    assert codec.decode(codec.final(raw)).shape == (0, 3, 16, 16)
    flow, none = perturbed(dtype=torch.float32), torch.zeros(0, dtype=torch.int64)
    back = change_class(flow, lambda z, y: flow.unpatchify(z), torch.zeros(0, 3, 8, 8), none, none)
    assert back.shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match="no images for a picture"):
        tile(torch.zeros(0, 3, 8, 8), 4)


def test_published_records_name_no_folder_and_no_host(tmp_path):
    from labcore.campaigns import records, state

    values = {
        **{key: key for key in ("id", "spec", "row", "notebook", "status")},
        "seed": 0,
        "parameters": {"data_path": "/home/someone/pictures", "steps": 3, "ratio": "1/2"},
        "attempts": [{"host": "node7.cluster", "ended": None, "seconds": 1.0}],
    }
    (tmp_path / "result.json").write_text(json.dumps({"where": ["/home/someone/model"], "fid": 1.5}))
    (tmp_path / "log.txt").write_text("started on node7.cluster, in /home/someone/run\n")
    kept = records.record(state.State(tmp_path, values))
    assert kept["parameters"] == {"data_path": "pictures", "steps": 3, "ratio": "1/2"}
    assert kept["metrics"] == {"where": ["model"], "fid": 1.5}
    assert kept["log"] == ["started on HOST, in run"]
