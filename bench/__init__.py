"""Micro-benchmarks, installed as `pyllm.bench`: every op beside its rivals, in the same process and the same run.

    bench_<op>.py   the op's cases: inputs, our call, the same in plain PyTorch; the one set-up, for timing and tests
    case.py         what a case is, and the calls it turns into
    timing.py       interleaved medians
    roofline.py     what the machine can do: bandwidth and matrix products, measured at the moment of the run
    report.py       rows, the table, the JSON
    tokenizer/      the tokenizer beside other libraries, in MB of text per second

`pyllm bench` prints the table; `pytest bench/bench_<op>.py --benchmark-enable` gives pytest-benchmark's view of an op.
"""
