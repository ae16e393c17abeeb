"""A training run for test_kill.py: says on stdout when a save begins and when a step is done, resumes where it can.

usage: python -m tests.training.run_to_be_killed OUTPUT_DIR [HANG_AT]     (HANG_AT: the step whose save never ends)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from pyllm.training import Trainer, TrainingConfig
from pyllm.training.checkpoint import save_weights
from tests.training.tiny import build, cross_entropy, rows

STEPS = 24


def main(output_dir: Path, hang_at: int = 0) -> None:
    def slow_save(model: torch.nn.Module, folder: Path) -> None:
        save_weights(model, folder)
        print(f"saving {folder.name}", flush=True)
        time.sleep(600 if f"{hang_at:06d}" in folder.name else 0.01)
        (folder / "config.json").write_text("{}")

    model = build(dropout=0.2)
    config = TrainingConfig(
        max_steps=STEPS,
        output_dir=output_dir,
        learning_rate=1e-2,
        gradient_accumulation_steps=2,
        save_steps=1,
        resume_from_checkpoint=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    result = Trainer(
        model,
        cross_entropy,
        rows(64),
        config,
        optimizer=optimizer,
        callbacks=[lambda report: print(f"done {report.step}", flush=True)],
        save_model=slow_save,
    ).train()
    print(f"finished {result.step}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # this model's plain matmuls change bits with the number of threads
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
