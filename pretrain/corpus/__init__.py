"""Program `corpus`: from sources of text to shards of tokens, in parallel processes, restartable after a kill.

    sources.py         the mixture: which files, how often, under which licence; cut into parts
    work.py            the folder of finished work and the processes that do it
    reading.py         step read: rows to clean text, in pieces
    cleaning.py        Unicode repair, control characters, boilerplate lines
    lines.py           step lines: lines that very many documents of a source repeat
    examining.py       step examine: words, languages, personal data, hashes for finding duplicates
    personal.py        personal data in a text, and which sites hold too much of it
    shingles.py        word n-grams, MinHash bands, exact Jaccard similarity
    duplicates.py      steps exact and near: the first of several like documents is kept
    tokens.py          step tokenize, and step shards
    card.py            what the text is like (paper 4.1): pronouns, identity terms, languages, toxicity
    report.py          what became of every document, and how fast
    build.py           the program: its configuration, the steps in order
    verify.py          program `corpus.verify`
    contamination.py   program `corpus.contamination` (paper A.6)

What worker processes import must not import torch: each of them would hold it.
"""
