from __future__ import annotations

from pathlib import Path

import pytest

from pennyweight.engines import Generation
from pennyweight.engines.transformers import Transformers


@pytest.mark.slow
def test_it_leaves_the_process_able_to_train(tiny_checkpoint: Path) -> None:
    import torch

    runtime = Transformers(max_num_seqs=1).load(tiny_checkpoint)
    runtime.submit(Generation(id="a", prompt=(1, 2, 3), max_tokens=2))
    while not any(event.finish for event in runtime.step()):
        pass
    assert torch.is_grad_enabled()
