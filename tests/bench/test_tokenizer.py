"""The tokenizer's benchmarks: every task runs, wrong answers are found, and what was measured is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyllm.bench.timing import Timing
from pyllm.bench.tokenizer import case as cases
from pyllm.bench.tokenizer import report, texts, vocabularies
from pyllm.bench.tokenizer.case import Case, Reported
from pyllm.bench.tokenizer.tables import document

from tests.assets import REPOSITORY, roots

TINY = 3_000  # bytes of text


@pytest.fixture
def assets(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in roots():
        monkeypatch.setenv(vocabularies.VARIABLE, str(root))
        if all(vocabulary.is_present for vocabulary in vocabularies.VOCABULARIES.values()):
            return
    pytest.skip("vocabularies are not here; run `make assets`")


@pytest.mark.parametrize(
    "label",
    [
        "long text, gpt2, English",
        "long text, llama2.json, English",
        "long text, mistral.model, English",
        "long text, t5.model, English",
        "long text, t5.json, English",
        "long text, bert, English",
        "small texts to lists, gpt2, English",
        "small texts to numpy, gpt2, English",
        "2 threads, gpt2, English, documents",
        "2 threads, gpt2, English, one text",
        "decode, gpt2, English",
        "streaming decode, gpt2, English",
        "count, gpt2, English",
        pytest.param("load, cl100k", marks=pytest.mark.slow),
        "train, 8192 tokens, all texts",
        pytest.param("first call, gpt2, English", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("assets")
def test_every_task_runs_and_everybody_answers_alike(label: str) -> None:
    chosen = [case for case in report.cases(size=TINY, full=True, only=label) if case.label == label]
    [row] = report.measure(chosen, seconds=0.0)
    assert row.timings["pyllm"].median > 0
    reasons = {why for why in row.unavailable.values() if not why.startswith("not installed")}
    assert not reasons


def fake_case(results: dict[str, Any], **changes: Any) -> Case:
    calls = {name: (lambda result=result: result) for name, result in results.items()}
    described: dict[str, Any] = {
        "task": "long text",
        "name": "made up",
        "text_bytes": 10,
        "build": lambda: (calls, {"quicktok": "not installed (quicktok)"}),
        "answer": cases.ids,
    }
    return Case(**{**described, **changes})


def test_a_wrong_rival_is_shown_and_not_timed() -> None:
    case = fake_case({"pyllm": [1, 2, 3], "tiktoken": np.array([1, 2, 3]), "gigatoken": [1, 5, 3]})
    [row] = report.measure([case], seconds=0.0)
    assert set(row.timings) == {"pyllm", "tiktoken"}
    assert row.unavailable["gigatoken"] == "wrong, it differs from tiktoken from id 1 on"
    assert report.mark_of_absence(row, "gigatoken") == "wrong"
    assert report.mark_of_absence(row, "quicktok") == "not installed"


def test_our_own_wrong_answer_ends_the_run() -> None:
    case = fake_case({"pyllm": [1, 2], "tokenizers": [1, 2, 3], "gigatoken": [1, 2]})
    with pytest.raises(ValueError, match="our answer is wrong, it differs from tokenizers from id 2 on"):
        list(report.measure([case]))


def test_answers_of_processes_are_compared() -> None:
    results = {"pyllm": Reported(2.0, "a"), "tiktoken": Reported(1.0, "a"), "gigatoken": Reported(1.0, "b")}
    case = fake_case(results, answer=lambda reported: reported.answer, in_processes=True)
    [row] = report.measure([case])
    assert row.timings["pyllm"].median == 2.0
    assert report.mark_of_absence(row, "gigatoken") == "wrong"


@pytest.mark.parametrize("many", [[[1, 2], [3]], (np.array([1, 2, 3]), np.array([0, 2, 3])), np.arange(1, 4)])
def test_ids_of_many_texts_become_one_array(many: Any) -> None:
    assert cases.ids(many).tolist() == [1, 2, 3]


def test_texts_come_from_a_folder_and_else_from_the_standard_library(tmp_path: Path) -> None:
    assert len(texts.find(None, 1000)["Python"].encode()) > 990
    (tmp_path / "english.txt").write_text("é" * 800)
    assert texts.find(tmp_path, 1001)["English"] == "é" * 500
    assert "Python" in texts.find(tmp_path, 1000)
    with pytest.raises(FileNotFoundError):
        texts.find(tmp_path / "absent", 10)


def test_without_vocabularies_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vocabularies.VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make assets"):
        report.cases()


def timing(seconds: float) -> Timing:
    return Timing(seconds, seconds / 2, seconds * 2, 9)


ROWS = [
    report.Row("long text", "gpt2, English", 1_000_000, {"pyllm": timing(0.01), "tiktoken": timing(0.1)}),
    report.Row(
        "long text",
        "gpt2, Python",
        1_000_000,
        {"pyllm": timing(0.01), "gigatoken": timing(0.005)},
        {"tiktoken": "wrong, it differs from tokenizers from id 1 on"},
    ),
    report.Row("load", "qwen3", None, {"pyllm": timing(0.5)}),
]


def test_every_row_is_rendered() -> None:
    saved = json.loads(json.dumps(report.as_json(ROWS, report.conditions(runs=3, full=True))))
    assert report.from_json(saved) == ROWS
    page = document({"avx2-2threads": saved}).splitlines()
    assert "| gpt2, English | 100 [50, 200] | 10 [5, 20], 10.00x | - |" in page
    assert "| gpt2, Python | 100 [50, 200] | wrong | 200 [100, 400], **0.50x** |" in page
    assert "| qwen3 | 0.5 s [1 s, 0.25 s] |" in page
    assert "Slower than a rival in 1 of 2 comparisons:" in page
    assert "- tiktoken: wrong, it differs from tokenizers from id 1 on (long text, gpt2, Python)" in page


def test_the_page_is_what_the_kept_results_give() -> None:
    files = sorted((REPOSITORY / "bench" / "results" / "tokenizer").glob("*.json"))
    results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    kept = (REPOSITORY / "docs" / "tokenizer_benchmarks.md").read_text(encoding="utf-8")
    assert kept == document(results), "run `make docs/tokenizer_benchmarks.md`"
