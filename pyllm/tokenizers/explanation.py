"""How a text became ids: what the normalizers made of it, its pieces, and how the model wrote each as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyllm.tokenizers.definition import (
    BytePairs,
    CharacterPairs,
    Model,
    TokenizerDefinition,
    Unigram,
    WordPiece,
)
from pyllm.tokenizers.offsets import in_characters

if TYPE_CHECKING:
    from pyllm.tokenizers.tokenizer import Tokenizer

# Merges are found again pair by pair, in time quadratic in the piece.
MOST_MERGED_BYTES = 256
_WIDEST = 40  # columns of the table
_NAMES: dict[type[Model], str] = {
    BytePairs: "byte-level BPE",
    CharacterPairs: "SentencePiece BPE",
    Unigram: "Unigram",
    WordPiece: "WordPiece",
}


@dataclass(frozen=True)
class Merge:
    """Two neighbours become one token. rank: lower ones merge first."""

    left: str
    right: str
    rank: int


@dataclass(frozen=True)
class Token:
    """One id.

    text: its bytes as the vocabulary has them; those of parts of a character are written \\xf0.
    span: begin and end in the text, in characters.
    score: log-probability of a Unigram token, or the score that orders the merges of a SentencePiece BPE.
    """

    id: int
    text: str
    span: tuple[int, int]
    score: float | None = None


@dataclass(frozen=True)
class Piece:
    """What the model is given at once, or an added token that was found in the text.

    text: as the model was given it. kind: "special token", "added token" or "text".
    merges: the way from single bytes or characters to tokens; () for other models, and None for pieces too long to
        show it. whole: the piece is a token that merges alone do not lead to (Llama 3, tiktoken).
    """

    text: str
    span: tuple[int, int]
    kind: str
    tokens: tuple[Token, ...]
    merges: tuple[Merge, ...] | None = ()
    whole: bool = False


@dataclass(frozen=True)
class NormalizedPart:
    """A part of the text between added tokens; `after` is what the normalizers made of it."""

    before: str
    after: str
    span: tuple[int, int]


@dataclass(frozen=True)
class Explanation:
    """See `Tokenizer.explain`; `print` shows it as a table.

    normalizers, pretokenizer, model: what the steps are. plain: special tokens that the text spells out and that were
    taken for plain text. prefix, suffix: what `add_special_tokens` put around.
    """

    text: str
    normalizers: tuple[str, ...]
    normalized: tuple[NormalizedPart, ...]
    pretokenizer: str
    model: str
    pieces: tuple[Piece, ...]
    plain: tuple[str, ...] = ()
    prefix: tuple[Token, ...] = ()
    suffix: tuple[Token, ...] = ()

    @property
    def ids(self) -> list[int]:
        """What `encode` gives."""
        inner = [token for piece in self.pieces for token in piece.tokens]
        return [token.id for token in (*self.prefix, *inner, *self.suffix)]

    def __str__(self) -> str:
        rows = list(self._rows())
        widths = [min(max((len(row[i]) for row in rows), default=0), _WIDEST) for i in range(2)]
        table = "\n".join(f"{a:>{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)
        return "\n".join([*self._head(), "", table])

    def _head(self) -> Iterator[str]:
        yield f"text          {_quoted(self.text)}"
        yield f"normalizers   {' -> '.join(self.normalizers) or 'none'}"
        for part in self.normalized:
            if part.before != part.after:
                yield f"  {_span(part.span)}  {_quoted(part.before)} -> {_quoted(part.after)}"
        yield f"pretokenizer  {self.pretokenizer}"
        yield f"model         {self.model}"
        if self.plain:
            yield f"plain text    {', '.join(self.plain)}: special tokens that were not allowed to match"

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        for token in self.prefix:
            yield "", _quoted(token.text), f"{token.id}  put in front"
        for piece in self.pieces:
            ids = ", ".join(f"{token.id} {_quoted(token.text)}{_score(token)}" for token in piece.tokens)
            note = f"  {piece.kind}" if piece.kind != "text" else ""
            if piece.whole:
                note += "  whole piece; merges do not lead here"
            yield _span(piece.span), _quoted(piece.text), (ids or "no token") + note
            for merge in piece.merges or ():
                yield "", "", f"  rank {merge.rank}: {_quoted(merge.left)} + {_quoted(merge.right)}"
            if piece.merges is None:
                yield "", "", f"  merges of more than {MOST_MERGED_BYTES} bytes are not shown"
        for token in self.suffix:
            yield "", _quoted(token.text), f"{token.id}  put behind"


def explain(tokenizer: Tokenizer, text: Any, options: Any, add_special_tokens: bool) -> Explanation:
    """See `Tokenizer.explain`. options: of the C++ core."""
    return _Explainer(tokenizer, text, options).explain(add_special_tokens)


class _Explainer:
    def __init__(self, tokenizer: Tokenizer, text: Any, options: Any) -> None:
        self._definition: TokenizerDefinition = tokenizer._definition
        self._encoding = tokenizer._encoding
        self._pattern = tokenizer.pattern
        self._added = {token.id: token for token in tokenizer._added}
        self._text = text
        self._trace = self._encoding.trace(text, options)
        parts = [*self._trace[3], *self._trace[4]]
        spans = np.array([part[:2] for part in parts], np.int64).reshape(-1, 2)
        self._spans = [(int(a), int(b)) for a, b in in_characters(spans, text)]
        self._plain_text = text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")

    def explain(self, add_special_tokens: bool) -> Explanation:
        definition = self._definition
        around = (definition.prefix_ids, definition.suffix_ids) if add_special_tokens else ((), ())
        prefix, suffix = (tuple(self._token(i, (0, 0)) for i in ids) for ids in around)
        pieces = tuple(self._pieces())
        found = {token.id for piece in pieces for token in piece.tokens if piece.kind != "text"}
        specials = [token for token in self._added.values() if token.special]
        return Explanation(
            text=self._plain_text,
            normalizers=tuple(_step(step) for step in definition.normalizers),
            normalized=tuple(self._normalized()),
            pretokenizer=self._pattern or " -> ".join(map(_step, definition.pre_tokenizers)) or "none",
            model=f"{_NAMES[type(definition.model)]}, {len(definition.tokens)} ids",
            pieces=pieces,
            plain=tuple(t.content for t in specials if t.id not in found and t.content in self._plain_text),
            prefix=prefix,
            suffix=suffix,
        )

    def _normalized(self) -> Iterator[NormalizedPart]:
        for (_, _, after), (begin, end) in zip(self._trace[3], self._spans, strict=False):
            yield NormalizedPart(self._plain_text[begin:end], _shown(after), (begin, end))

    def _pieces(self) -> Iterator[Piece]:
        ids, offsets, owners, normalized, pieces = self._trace
        places = in_characters(offsets, self._text)
        tokens: list[list[Token]] = [[] for _ in pieces]
        for token_id, (begin, end), owner in zip(ids, places, owners, strict=True):
            tokens[owner].append(self._token(token_id, (int(begin), int(end))))
        for part, span, row in zip(pieces, self._spans[len(normalized) :], tokens, strict=True):
            yield self._piece(part[2], span, row)

    def _piece(self, given: bytes, span: tuple[int, int], tokens: Sequence[Token]) -> Piece:
        added = self._added.get(tokens[0].id) if len(tokens) == 1 else None
        if added is not None and added.content.encode() == given:
            return Piece(
                _shown(given), span, "special token" if added.special else "added token", tuple(tokens)
            )
        if len(given) > MOST_MERGED_BYTES:
            return Piece(_shown(given), span, "text", tuple(tokens), None)
        steps = self._encoding.merge_steps(given)
        merges = tuple(
            Merge(_shown(given[begin:cut]), _shown(given[cut:end]), rank) for rank, begin, cut, end in steps
        )
        merging = isinstance(self._definition.model, (BytePairs, CharacterPairs))
        reached = len(given) == 1 or any(begin == 0 and end == len(given) for _, begin, _, end in steps)
        single = len(tokens) == 1 and self._definition.tokens[tokens[0].id] == given
        whole = merging and single and not reached and len(_shown(given)) > 1
        return Piece(_shown(given), span, "text", tuple(tokens), () if whole else merges, whole)

    def _token(self, token_id: int, span: tuple[int, int]) -> Token:
        model = self._definition.model
        scores = model.scores if isinstance(model, (CharacterPairs, Unigram)) else None
        score = None if scores is None or token_id >= len(scores) else float(scores[token_id])
        return Token(token_id, _shown(self._definition.tokens[token_id] or b""), span, score)


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _quoted(text: str) -> str:
    """On one line; the bytes of a part of a character as `_shown` wrote them."""
    return repr(text).replace(r"\\x", r"\x")


def _span(span: tuple[int, int]) -> str:
    return f"{span[0]}:{span[1]}"


def _score(token: Token) -> str:
    return "" if token.score is None else f" ({token.score:.6g})"


def _step(step: Any) -> str:
    """The name of a step with its pattern, the option that tells most."""
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and pattern:
        return f"{step['type']}({next(iter(pattern.values()))!r})"
    return str(step["type"])
