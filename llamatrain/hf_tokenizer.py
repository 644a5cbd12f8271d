"""The tokenizer for Hugging Face tools: tokenizer_config.json with the chat template, and tokenizer.json.

transformers, vLLM and lm-eval read those, never SentencePiece's model. tokenizer.json says with `tokenizers`' parts what
SentencePiece does under Llama 2's settings. Whether it does so for a given model is tried on thousands of texts before
it is written; where one text has other ids it is left out, and tokenizer_config.json names SentencePiece.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llamatrain import atomic
from llamatrain.tokenizer import MODEL_FILE, SPACE, Tokenizer

CONFIG_FILE, FAST_FILE = "tokenizer_config.json", "tokenizer.json"
TEXTS = 3000  # on which tokenizer.json is tried
SENTENCEPIECE = {"tokenizer_class": "SentencePieceBackend", "legacy": True}  # legacy: a space before every text

# The released chat format (`llamatrain.chat`) for transformers and vLLM, whose Jinja knows `generation`: what stands in it
# are the answers, for tools that train on them alone. Other engines look for the tag spelt exactly so.
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' -%}
  {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Roles must alternate user/assistant/user/assistant, after an optional system message') -}}
  {%- endif -%}
  {%- if message['role'] == 'user' -%}
    {{- bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' [/INST]' -}}
  {%- else -%}
    {% generation %}{{- ' ' + message['content'].strip() + ' ' + eos_token -}}{% endgeneration %}
  {%- endif -%}
{%- endfor -%}
"""

# What stands in no vocabulary, or is easily taken apart another way: spaces of all kinds, digits, marks, joined emoji.
RARE = [
    *"0123456789.,;:!?'\"()[]{}<>@#$%&*+-=/\\|_~^`\n\t\r",
    " ", "  ", "   ", "     ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\ufeff", "\0", "\x01", "\x7f", "\x85",
    "é", "e\u0301", "ß", "ﬁ", "①", "½", "Ｆ", "日本", "語", "가", "한국", "ไทย", "עברית", "عربي", "हिन्दी", "Ω", "ж", "𝔘",
    "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\u0300", "\ufffd", "[INST]", "[/INST]", "<<SYS>>", "\n<</SYS>>\n\n",
]  # fmt: skip


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.model, tokenizer_config.json and, where it has the same ids, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    fast, differing = _tried(tokenizer)
    config = json.dumps(_config(tokenizer, faithful=not differing), indent=2, ensure_ascii=False) + "\n"
    atomic.write_bytes(folder / MODEL_FILE, tokenizer.model_bytes)
    atomic.write_text(folder / CONFIG_FILE, config)
    if differing:
        (folder / FAST_FILE).unlink(missing_ok=True)
    else:
        atomic.write_text(folder / FAST_FILE, fast)


def announce(tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
    """Say where tokenizer.json will be left out, and why."""
    if differing := _tried(tokenizer)[1]:
        cause = ", ".join(tokenizer.unlike_llama()) or "pieces of equal score"
        say(
            f"warning: {tokenizer.path} is not a model like Llama 2's ({cause}): tokenizer.json would have other ids for "
            f"{differing:,} of {TEXTS:,} texts and is left out of what is saved (docs/checkpoints.md)"
        )


@functools.lru_cache(maxsize=2)
def _tried(tokenizer: Tokenizer) -> tuple[str, int]:
    """Return tokenizer.json and for how many of TEXTS texts its ids are not SentencePiece's. Once for every tokenizer."""
    from tokenizers import Tokenizer as Fast  # here, because it is asked once in a long program

    content = json.dumps(_fast(tokenizer), ensure_ascii=False) + "\n"
    fast = Fast.from_str(content)
    same = (fast.encode(text).ids == ids for text, ids in _expected(tokenizer))
    return content, sum(not equal for equal in same)


def _expected(tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    """Yield texts with their ids: runs of the model's own pieces, cut anywhere, among rare characters; and chat turns."""
    rng = random.Random(0)
    own = [piece.replace(SPACE, " ") for piece in tokenizer.normal_pieces()] or [" "]
    eos = tokenizer.piece(tokenizer.eos_id)
    special = (eos, tokenizer.piece(tokenizer.bos_id), tokenizer.piece(tokenizer.unk_id))

    def part() -> str:
        kind = rng.random()
        if kind < 0.7:
            piece = rng.choice(own)
            return piece[rng.randrange(len(piece)) :] if kind < 0.2 else piece
        return chr(rng.randrange(0xD800)) if kind < 0.75 else rng.choice(RARE)

    def text() -> str:
        made = "".join(part() for _ in range(rng.randrange(1, 13)))
        return text() if any(piece in made for piece in special) else made  # which `tokenizers` finds in a text

    for number in range(TEXTS):
        if number % 5:
            plain = text()
            yield plain, tokenizer.encode(plain, bos=True)
        else:
            prompt, answer = f"[INST] {text().strip()} [/INST]", text().strip()
            ids = tokenizer.encode(prompt, bos=True) + tokenizer.encode(f"{answer} ", eos=True)
            yield f"{prompt} {answer} {eos}", ids


def _config(tokenizer: Tokenizer, faithful: bool) -> dict[str, Any]:
    """Return tokenizer_config.json.

    Padding with the unknown piece, which config.json of a reward model names, keeps tools from padding with EOS: a
    reward model would then be read one token early, and a language model never learn to stop.
    """
    # Without tokenizer.json transformers makes one of its own, with other ids, unless this class is named.
    reader = {"tokenizer_class": "PreTrainedTokenizerFast"} if faithful else SENTENCEPIECE
    return {
        **reader,
        "bos_token": tokenizer.piece(tokenizer.bos_id),
        "eos_token": tokenizer.piece(tokenizer.eos_id),
        "unk_token": tokenizer.piece(tokenizer.unk_id),
        "pad_token": tokenizer.piece(tokenizer.unk_id),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _fast(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return tokenizer.json.

    A decoded answer ends with the chat format's space: a decoder that took it away would lose others where a server
    decodes token by token.
    """
    special = sorted({tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id})
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokenizer.piece(i), **flags} for i in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        # SentencePiece merges over the whole text: nothing is cut before.
        "pre_tokenizer": None,
        "post_processor": _post_processor(tokenizer),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokenizer.piece(tokenizer.unk_id),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {tokenizer.piece(i): i for i in range(tokenizer.vocab_size)},
            "merges": _merges(tokenizer),
        },
    }


def _post_processor(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the part of tokenizer.json that puts BOS before a text, and before each of a pair of texts."""
    bos = tokenizer.piece(tokenizer.bos_id)
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": bos, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    """Return every pair of pieces that makes a piece, best first: SentencePiece merges by the score of the result."""
    pieces = {piece: tokenizer.piece_id(piece) for piece in tokenizer.normal_pieces()}
    ranked = sorted(pieces, key=lambda piece: (-tokenizer.score(pieces[piece]), pieces[piece]))
    splits = ((piece[:cut], piece[cut:]) for piece in ranked for cut in range(1, len(piece)))
    return [[left, right] for left, right in splits if left in pieces and right in pieces]
