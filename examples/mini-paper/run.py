"""The paper's whole recipe in small: from recordings and texts to a page of results like its section 4.

    ANYTALK_SPEECH=/data/speech python examples/mini-paper/run.py OUT --scale small

Every step is a command that a team types at scale, printed before it runs. A step that was finished is not run again,
and training goes on where it was stopped. OUT/README.md is the page, written anew after each step.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights that lie here are enough, and nothing waits for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import yaml
from page import write_page
from questions import VARIANTS, ablation_recipe, shortened
from rows import write_rows
from suites import suites_of

from anytalk.cli.app import build_app
from anytalk.errors import AnytalkError
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry
from anytalk.train.config import find_recipe

HERE = Path(__file__).resolve().parent
SPEECH = Path(os.environ.get("ANYTALK_SPEECH", HERE.parents[2] / "shared" / "speech"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder for everything that is made.")
    parser.add_argument("--scale", default="small", help="Sizes by name (scales.yaml), or a .yaml file of your own.")
    parser.add_argument("--part", choices=["data", "recipe", "questions"], help="Make the data and only this part.")
    parser.add_argument("--launcher", default="", help='Before `anytalk train`, e.g. "torchrun --nproc-per-node 8 -m".')
    arguments = parser.parse_args()
    Run(arguments.out, read_scale(arguments.scale), arguments.launcher).all(arguments.part)


def read_scale(name: str) -> dict[str, Any]:
    """Sizes by their name, or from a file; ends the program where there are none."""
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else HERE / "scales.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (is_file and not found) or (not is_file and name not in found):
        known = ", ".join(yaml.safe_load((HERE / "scales.yaml").read_text(encoding="utf-8")))
        sys.exit(f"scale '{name}' isn't there; there are: {known}, or write a .yaml file")
    return {"name": path.stem, **found} if is_file else {"name": name, **found[name]}


class Run:
    """All steps of one folder."""

    def __init__(self, out: Path, scale: dict[str, Any], launcher: str = "") -> None:
        self.out, self.scale, self.launcher = out, scale, shlex.split(launcher)
        self.talker, self.train_on, self.held_out = out / "talker", out / "shards", out / "held-out"
        out.mkdir(parents=True, exist_ok=True)
        kept = out / "scale.yaml"
        if kept.is_file() and yaml.safe_load(kept.read_text(encoding="utf-8")) != scale:
            sys.exit(f"'{out}' was begun with another scale ({kept}); choose a new folder")
        kept.write_text(yaml.safe_dump(scale, sort_keys=False), encoding="utf-8")

    def all(self, part: str | None = None) -> None:
        """Run what is not finished yet."""
        self.step("attach", self.attach, self.talker, *self.attach_words())
        self.step("rows", write_rows, self.out, self.scale, SPEECH)
        for data, folder in (("data.yaml", self.train_on), ("held-out.yaml", self.held_out)):
            words = ("prepare", self.out / data, "-o", folder, "--talker", self.talker, "--half")
            self.step(f"prepare {folder.name}", self.anytalk, *words)
        if part in (None, "recipe"):
            self.recipe()
        if part in (None, "questions"):
            self.questions()
        print(f"\nThe page: {self.out / 'README.md'}")

    def recipe(self) -> None:
        """Train the stages of the paper, and measure after each."""
        stages = [stage.name for stage in find_recipe("paper", default_registry()).stages]
        sizes = [word for name, value in self.scale["stages"].items() for word in ("--set", f"{name}={value}")]
        self.measure("attached", self.talker)
        for stage in stages:
            held_out = ("--held-out", self.held_out, "--held-out-every", self.scale["held_out_every"])
            words = ("--data", self.train_on, "--recipe", "paper", "--stage", stage, *sizes, *held_out)
            self.step(f"train {stage}", self.train, self.talker, *words)
            self.measure(stage, self.talker)

    def questions(self) -> None:
        """Train a small model once for each answer to the paper's open questions, on the same budget."""
        folder, scale = self.out / "questions", self.scale["ablation"]
        model, *options = self.attach_words()
        mean = folder / "mean-untrained"
        self.step("attach mean-untrained", self.attach, mean, model, *options, "--set", "grid.merge=mean")
        self.measure("mean-untrained", mean, ["text"])
        if scale["layers"] is not None:
            self.step("shorten", shortened, model, scale["layers"], folder / "model")
            model = str(folder / "model")
        for name, variant in VARIANTS.items():
            if name not in scale.get("only", VARIANTS):
                continue
            talker, recipe = folder / name, folder / f"{name}.yaml"
            recipe.write_text(yaml.safe_dump(ablation_recipe(scale, variant)), encoding="utf-8")
            settings = [w for s in ("output_adapter={name: none}", *variant.settings) for w in ("--set", s)]
            self.step(f"attach {name}", self.attach, talker, model, *options, *settings, "--seed", variant.seed)
            self.step(f"train {name}", self.train, talker, "--data", self.train_on, "--recipe", recipe)
            self.measure(name, talker, ["loss"])

    def measure(self, checkpoint: str, talker: Path, only: list[str] | None = None) -> None:
        """Measure a talker as it is now."""
        for name, suite in suites_of(checkpoint, self.out, self.scale, only).items():
            folder = self.out / "eval" / checkpoint / name
            path = folder.with_suffix(".yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(suite, sort_keys=False, allow_unicode=True), encoding="utf-8")
            self.step(f"eval {checkpoint} {name}", self.anytalk, "eval", talker, "--suite", path, "-o", folder)

    def attach_words(self) -> list[str]:
        """What is typed to `anytalk attach`: SNAC, the paper's codec, where its weights lie here, else `heart`."""
        words = [str(word) for word in self.scale["attach"]]
        return words if "--codec" in words else [*words, "--codec", installed_codec()]

    def attach(self, talker: Path, *words: object) -> None:
        self.anytalk("attach", *words, "-o", talker, "--overwrite")

    def train(self, talker: Path, *words: object) -> None:
        self.anytalk("train", talker, *words, *self.scale["train"])

    def anytalk(self, *words: object) -> None:
        """Print a command and run it, in this process unless a launcher starts it; ends the program when it fails."""
        typed = [str(word) for word in words]
        launcher = self.launcher if typed[0] == "train" else []
        print(f"\n$ {shlex.join([*launcher, 'anytalk', *typed])}", flush=True)
        if launcher:
            status = subprocess.run([*launcher, "anytalk", *typed], check=False).returncode
        else:
            status = build_app(only=typed[0])(typed, standalone_mode=False)
        # A measure that fails is a line of its report; the others count.
        if status and not (typed[0] == "eval" and status == 1):
            sys.exit(status)

    def step(self, name: str, work: Callable[..., object], *given: object) -> None:
        """Do a step once; its mark holds the seconds it took (of the last try, where it was interrupted)."""
        mark = self.out / "steps" / name.replace(" ", "-")
        if mark.is_file():
            return
        print(f"\n== {name}", flush=True)
        began = time.perf_counter()
        work(*given)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(f"{time.perf_counter() - began:.1f}\n", encoding="utf-8")
        write_page(self.out, self.scale)


def installed_codec() -> str:
    """``"snac"`` where its weights can be loaded without a network, else ``"heart"``."""
    try:
        default_registry().build("codec", PartRef(name="snac"))
    except AnytalkError:
        return "heart"
    return "snac"


if __name__ == "__main__":
    main()
