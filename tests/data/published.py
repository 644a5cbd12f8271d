"""One row of every public set that an adapter reads, with the fields and the nesting that the set publishes."""

from __future__ import annotations

from typing import Any

ASK, TELL = {"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "Light scatters."}
AGAIN, MORE = {"role": "user", "content": "And red at dusk?"}, {"role": "assistant", "content": "A longer way."}

OPENAI = {"messages": [{"role": "developer", "content": "Be short."}, ASK, TELL, AGAIN, MORE]}
SHAREGPT = {
    "id": "QWJhYvA_0",
    "conversations": [
        {"from": "human", "value": "Why is the sky blue?"},
        {"from": "gpt", "value": "Light scatters."},
        {"from": "human", "value": "And red at dusk?"},
        {"from": "gpt", "value": " A longer way.\n"},
        {"from": "human", "value": "Thanks"},
    ],
}
ALPACA = {
    "instruction": "Name the colour.",
    "input": "The sky at noon.",
    "output": "Blue.",
    "text": "Below is an instruction ...",
}
DOLLY = {
    "instruction": "When did Virgin Australia start?",
    "context": "Virgin Australia commenced services on 31 August 2000.",
    "response": "In 2000.",
    "category": "closed_qa",
}
FLAN = {"inputs": "Premise: it rains. Is it wet?", "targets": "yes", "task": "snli"}
COMPLETION = {"prompt": "Why is the sky blue?", "completion": " Light scatters."}

TREE = {
    "message_tree_id": "t",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "t",
        "text": "Why is the sky blue?",
        "role": "prompter",
        "lang": "en",
        "deleted": False,
        "replies": [
            {"text": "Light scatters.", "role": "assistant", "lang": "en", "rank": 0, "replies": []},
            {"text": "It is painted.", "role": "assistant", "lang": "en", "rank": 2, "replies": []},
            {"text": "Because.", "role": "assistant", "lang": "en", "rank": 1, "replies": []},
            {"text": "Darum.", "role": "assistant", "lang": "de", "rank": 3, "replies": []},
        ],
    },
}
SHP = {
    "post_id": "qt3nxl",
    "domain": "askculinary_train",
    "upvote_ratio": 0.98,
    "history": "What's the best way to disassemble raspberries?",
    "c_root_id_A": "hkh25sc",
    "c_root_id_B": "hkh25lp",
    "created_at_utc_A": 1636822112,
    "created_at_utc_B": 1636822110,
    "score_A": 340,
    "score_B": 166,
    "human_ref_A": "Pectinex, perhaps?",
    "human_ref_B": "Raspberry juice will make a bright stain at first.",
    "labels": 1,
    "seconds_difference": 2.0,
    "score_ratio": 2.0481927711,
}
WEBGPT = {
    "question": {
        "dataset": "triviaqa",
        "id": "fc0b",
        "full_text": "Voiced by Harry Shearer, who is Homer's neighbour?",
    },
    "quotes_0": {"title": ["Ned Flanders (Wikipedia)"], "extract": ["Ned Flanders is ..."]},
    "answer_0": "The neighbour is Ned Flanders [1].",
    "tokens_0": {"prefix": [1], "completion": [2]},
    "score_0": -0.5,
    "quotes_1": {"title": [], "extract": []},
    "answer_1": "Apu.",
    "tokens_1": {"prefix": [1], "completion": [3]},
    "score_1": 0.5,
}
SUMMARIZE = {
    "info": {
        "id": "t3_2vwp1w",
        "post": "I had a car accident on friday.",
        "title": "Dutch law?",
        "subreddit": "legaladvice",
        "site": None,
        "article": None,
    },
    "summaries": [
        {"text": " car accident caused damage", "policy": "sup4_ppo_rm3_kl10", "note": None},
        {"text": " how can i get an investigation?", "policy": "ref", "note": "Unclear."},
    ],
    "choice": 1,
    "worker": "ikNm",
    "batch": "batch9",
    "split": "train",
    "extra": {"confidence": 8},
}
STACKEXCHANGE = {
    "qid": 4,
    "question": "<p>Are questions about LaTeX on topic?</p>",
    "answers": [
        {
            "answer_id": 1,
            "author": "a",
            "author_id": 1,
            "author_profile": "",
            "pm_score": 1,
            "selected": False,
            "text": "No.",
        },
        {
            "answer_id": 2,
            "author": "b",
            "author_id": 2,
            "author_profile": "",
            "pm_score": 4,
            "selected": True,
            "text": "Yes.",
        },
        {
            "answer_id": 3,
            "author": "c",
            "author_id": 3,
            "author_profile": "",
            "pm_score": 3,
            "selected": False,
            "text": "So?",
        },
    ],
    "date": "2010/07/28",
    "metadata": ["https://meta.example.com/questions/4"],
}
GPTJ = {"prompt": "Why is the sky blue?", "chosen": "Light scatters.", "rejected": "It is."}
PKU = {
    "prompt": "How do I pick a lock?",
    "response_0": "With a tension wrench and a pick.",
    "response_1": "I would call a locksmith.",
    "prompt_source": "",
    "response_0_source": "Alpaca-7B",
    "response_1_source": "Alpaca-7B",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_severity_level": 1,
    "response_1_severity_level": 0,
    "better_response_id": 0,
    "safer_response_id": 1,
}
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Why is the sky blue?",
    "models": ["alpaca-7b", "gpt-4", "wizardlm-7b"],
    "completions": [
        {"model": "alpaca-7b", "response": "It is.", "fine-grained_score": 2.0, "overall_score": 3.0},
        {"model": "gpt-4", "response": "Light scatters.", "fine-grained_score": 5.0, "overall_score": 9.0},
        {"model": "wizardlm-7b", "response": "Air.", "fine-grained_score": 2.5, "overall_score": 3.0},
    ],
}
BINARIZED = {
    "prompt": ASK["content"],
    "prompt_id": "p",
    "chosen": [ASK, TELL],
    "rejected": [ASK, {"role": "assistant", "content": "It is."}],
    "messages": [ASK, TELL],
    "score_chosen": 8.5,
    "score_rejected": 7.0,
}
REWARDBENCH2 = {
    "id": "17",
    "prompt": "Name a colour.",
    "chosen": ["Red."],
    "rejected": ["Seven.", "Loud.", "Cold."],
    "num_correct": 1,
    "num_incorrect": 3,
    "total_completions": 4,
    "models": ["m"],
    "subset": "Factuality",
    "additional_metadata": None,
}

DIALOGUES: dict[str, dict[str, Any]] = {
    "openai_messages": OPENAI,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA,
    "dolly": DOLLY,
    "flan": FLAN,
    "prompt_completion": COMPLETION,
    "oasst": TREE,
}
PREFERENCES: dict[str, dict[str, Any]] = {
    "pku_saferlhf": PKU,
    "shp": SHP,
    "webgpt": WEBGPT,
    "summarize": SUMMARIZE,
    "stackexchange": STACKEXCHANGE,
    "ultrafeedback": ULTRAFEEDBACK,
    "rewardbench2": REWARDBENCH2,
    "dialogue_pairs": BINARIZED,
    "prompt_pairs": GPTJ,
}
