"""Whole training runs beside transformers and plain PyTorch.

    python -m pyllm.bench.end_to_end.training_step     seconds and peak memory of one step; --profile: where ours goes
    python -m pyllm.bench.end_to_end.time_to_loss      seconds to a validation loss on tiny Shakespeare

In a source tree that is not installed the package is `bench.end_to_end`.
"""
