"""The tokenizer beside tiktoken, tokenizers, gigatoken, quicktok, sentencepiece, rustbpe and gigabpe, in MB of text per
second.

    texts.py          English, Python, Chinese, Japanese and mixed text, from a folder or from what every machine has
    vocabularies.py   real vocabularies and where their files lie
    contenders.py     one library with one vocabulary: ours and the rivals, each by its quickest calls
    case.py           what is timed, and what every contender's answer is compared with before
    encoding.py       cases: long texts, first calls, small texts, threads
    decoding.py       cases: decoding, streaming, counting, loading
    training.py       cases: byte-level BPE
    fresh_process.py  first calls, each in a process of its own
    report.py         measures, shows and saves rows
    tables.py         docs/tokenizer_benchmarks.md from saved rows

`pyllm bench tokenizer` runs it.
"""
