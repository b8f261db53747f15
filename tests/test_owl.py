"""The example of a Hugging Face family with a twist keeps the contract, and the page shows its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import model_folder

from anytalk.plugins import BuildContext
from anytalk.plugins.hf import CausalLMBackbone
from anytalk.plugins.testing import check_backbone

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "anytalk-owl"


def test_owl_keeps_the_contract_and_has_its_twist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from owl_backbone import OwlBackbone

    options = OwlBackbone.Options(model=str(model_folder(tmp_path / "m", "llama")))
    owl, plain = (part.build(options, BuildContext()) for part in (OwlBackbone, CausalLMBackbone))
    check_backbone(owl)
    ids = torch.tensor([[3, 1, 2]])
    torch.testing.assert_close(owl.embed_text(ids), plain.embed_text(ids) * owl.width**0.5)
    assert owl.tokenizer.render_chat([{"role": "user", "content": "hi"}]).startswith("user: hi")


def test_its_hook_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, anytalk_owl as o; o.register_backbones(); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_shows_its_files() -> None:
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
    for name in ("anytalk_owl.py", "owl_backbone.py"):
        assert (FOLDER / name).read_text(encoding="utf-8") in page
