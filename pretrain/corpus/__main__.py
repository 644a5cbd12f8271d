"""Program `corpus`: documents to tokens on disk, cleaned and without duplicates, ready to be memory-mapped."""

from llamatrain.config.program import main

from .build import build
from .config import CorpusConfig

if __name__ == "__main__":
    main("corpus", CorpusConfig, build)
