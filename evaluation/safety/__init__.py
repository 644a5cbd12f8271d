"""The paper's automatic safety benchmarks: TruthfulQA, ToxiGen, BOLD, and borderline prompts (A.4.7)."""
