"""Program `corpus`: documents to clean, deduplicated, memory-mapped token shards."""

from llamatrain.config.program import main

from .build import build
from .config import CorpusConfig

if __name__ == "__main__":
    main("corpus", CorpusConfig, build)
