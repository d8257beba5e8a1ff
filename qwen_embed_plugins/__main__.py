"""`python -m qwen_embed_plugins` is the command `qwen-embed`."""

import sys

from qwen_embed_plugins.cli import main

if __name__ == "__main__":
    sys.exit(main())
