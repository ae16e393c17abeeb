"""Divergence from a base against torch on transformers' logits, and what formats are expected to cost."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import pyllm
from pyllm.checkpoints import save_checkpoint
from pyllm.cli import main
from pyllm.evaluation.divergence import divergence, run_base
from pyllm.evaluation.format_table import Results, update_page
from pyllm.evaluation.formats import in_format, windows_of
from pyllm.models import Transformer
from pyllm.quantization import quantize_network, rotated
from tests.assets import asset

WINDOWS = [list(range(5, 95)), [7, 3], list(range(200, 100, -3))]


def quiet(phase: str, done: int, total: int) -> None:
    pass


def _log_probs(network: Transformer, folder: Path) -> torch.Tensor:
    """transformers' log-probabilities of all predicted positions, in float64."""
    save_checkpoint(network, folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        rows = [theirs(torch.tensor([window])).logits[0, :-1] for window in WINDOWS]
    return torch.cat(rows).log_softmax(-1)


def test_equal_to_torch_on_transformers_logits(tiny_model: pyllm.Model, tmp_path: Path):
    network = copy.deepcopy(tiny_model.network)
    quantize_network(network, "q4_0")
    p, q = _log_probs(tiny_model.network, tmp_path / "p"), _log_probs(network, tmp_path / "q")
    targets = torch.cat([torch.tensor(window[1:]) for window in WINDOWS])
    kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    loss = torch.nn.functional.nll_loss(q, targets, reduction="none")
    found = divergence(run_base(tiny_model.network, WINDOWS, quiet), network, quiet)
    count = len(targets)
    assert found.num_predicted == count
    assert found.mean_kl == pytest.approx(float(kl.mean()), rel=1e-4)
    assert found.kl_error == pytest.approx(float(kl.std()) / math.sqrt(count), rel=1e-4)
    assert found.perplexity == pytest.approx(float(loss.mean().exp()), rel=1e-4)
    assert found.perplexity_error == pytest.approx(
        float(loss.mean().exp() * loss.std()) / math.sqrt(count), rel=1e-4
    )
    assert found.top1_agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_a_network_beside_itself(tiny_model: pyllm.Model):
    found = divergence(run_base(tiny_model.network, WINDOWS, quiet), tiny_model.network, quiet)
    assert (found.mean_kl, found.top1_agreement) == (0.0, 1.0)


def test_windows():
    assert windows_of(range(7), 3, ()) == [[0, 1, 2], [3, 4, 5]]
    assert windows_of(range(7), 4, (9,)) == [[9, 0, 1, 2], [9, 3, 4, 5], [9, 6]]
    with pytest.raises(ValueError, match="context must exceed the 1 tokens"):
        windows_of(range(7), 1, (9,))
    with pytest.raises(ValueError, match="windows must be"):
        run_base(Transformer(pyllm.models.ModelConfig(9, 8, 8, 1, 1)), [[1]], quiet)


def test_formats(tiny_model: pyllm.Model, tmp_path: Path):
    def never() -> Transformer:
        raise AssertionError("the file is there")

    quantized, size = in_format(lambda: tiny_model.network, "Q8_0", tmp_path)
    assert quantized.is_quantized
    assert size == (tmp_path / "q8_0.gguf").stat().st_size
    assert in_format(never, "q8_0", tmp_path)[1] == size
    network, held = in_format(lambda: tiny_model.network, "int8", tmp_path)
    assert not tiny_model.network.is_quantized
    assert network.model.embed_tokens.weight is tiny_model.network.model.embed_tokens.weight
    blocks = sum(p.numel() for p in tiny_model.network.model.layers.parameters() if p.dim() == 2)
    whole = 4 * sum(tensor.numel() for tensor in tiny_model.network.state_dict().values())
    assert whole - 3 * blocks <= held < whole - 2.9 * blocks
    # 64 and 96 inputs are no multiples of 128
    with pytest.raises(ValueError, match="no multiple of the group"):
        in_format(lambda: tiny_model.network, "int4_g128", tmp_path)
    with pytest.raises(ValueError, match="format must be one of"):
        in_format(lambda: tiny_model.network, "q9", tmp_path)


def test_the_command_writes_its_table(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text("def add(a, b): return a + b\n" * 20)
    page = tmp_path / "page.md"
    page.write_text(f"above\n<!-- formats {tiny_folder.stem} -->\nold\n<!-- end -->\nbelow\n")
    arguments = ["--model", str(tiny_folder), "--data", str(tmp_path / "text.txt"), "--context", "64"]
    arguments += ["--json", str(tmp_path / "r.json"), "--out", str(page), "--max-tokens", "150"]
    arguments += ["--formats", "q8_0", "q4_0", "int4_g128"]
    assert main(["eval", "quantization", *arguments]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())[tiny_folder.stem]["rows"]
    assert rows.keys() == {"float32 (base)", "as stored", "q8_0", "q4_0"}
    assert abs(rows["as stored"]["mean_kl"]) < 1e-6 < rows["q8_0"]["mean_kl"] < rows["q4_0"]["mean_kl"]
    assert min(row[key] for row in rows.values() for key in ("bytes", "prefill", "decode")) > 0
    text = page.read_text()
    assert text.startswith("above\n<!-- formats")
    assert text.endswith("<!-- end -->\nbelow\n")
    assert "old" not in text
    assert "| q4_0 | " in text
    assert text.index("| q8_0 |") < text.index("| q4_0 |")
    with pytest.raises(ValueError, match="has no place between"):
        update_page(page, "another", {"conditions": {}, "rows": {}})
    capsys.readouterr()
    assert main(["eval", "quantization", *arguments, "--measure", "all"]) == 2
    assert "--measure must be one of both, quality, speed" in capsys.readouterr().err


def test_the_command_goes_on_where_it_stopped(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Rows are in the file as soon as they are measured, and are not measured again; the text must be the same."""
    (tmp_path / "text.txt").write_text("def add(a, b): return a + b\n" * 20)
    arguments = ["--model", str(tiny_folder), "--data", str(tmp_path / "text.txt"), "--context", "64"]
    arguments += ["--json", str(tmp_path / "r.json"), "--max-tokens", "100", "--work", str(tmp_path)]

    def rows() -> dict[str, dict[str, float]]:
        found = json.loads((tmp_path / "r.json").read_text())[tiny_folder.stem]
        return dict(found["rows"])

    def stopped(*_: object) -> float:
        raise OSError("stopped")

    quality = ["eval", "quantization", *arguments, "--measure", "quality", "--formats"]
    # A folder where a file must be written stops the command at its last format.
    (tmp_path / "q4_0.gguf").mkdir()
    assert main([*quality, "q8_0", "q4_0"]) == 2
    first = rows()
    assert first.keys() == {"float32 (base)", "as stored", "q8_0"}
    (tmp_path / "q4_0.gguf").rmdir()
    with monkeypatch.context() as patch:
        measured = []
        patch.setattr(
            "pyllm.evaluation.divergence.divergence",
            lambda *given: measured.append(given) or divergence(*given),
        )
        assert main([*quality, "q8_0", "q4_0"]) == 0
        assert len(measured) == 1
    assert {name: rows()[name] for name in first} == first
    # Speeds of files that are there need no base.
    monkeypatch.setattr("pyllm.evaluation.divergence.run_base", stopped)
    assert main(["eval", "quantization", *arguments, "--measure", "speed", "--formats", "q4_0"]) == 0
    assert rows()["q4_0"].keys() > {"mean_kl", "prefill", "decode"}
    assert "prefill" not in rows()["q8_0"]
    capsys.readouterr()
    assert main([*quality, "q8_0", "--seed", "1"]) == 2
    assert "holds results of text" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds results of text"):
        Results(tmp_path / "r.json", tiny_folder.stem, {"text": "another"})


@pytest.mark.slow
def test_more_bits_are_nearer_to_the_base(smollm2_model: pyllm.Model, tmp_path: Path):
    """On the rotated weights: those in the file lie on the grid of Q4_1."""
    text = asset("wikitext2/valid.txt").read_text(encoding="utf-8")[:4000]
    assert smollm2_model.tokenizer is not None
    ids = smollm2_model.tokenizer.encode(text, disallowed_special=())[:512]
    network = rotated(smollm2_model.network)
    base = run_base(network, windows_of(ids, 256, ()), quiet)
    formats = ("q8_0", "q6_k", "q5_k", "q4_k", "q4_0")
    found = [
        divergence(base, in_format(lambda: network, format, tmp_path)[0], quiet).mean_kl for format in formats
    ]
    assert len(found) == 5
    assert found == sorted(found)
    assert 0 < found[0] < 0.01
