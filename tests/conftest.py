"""Set before anything imports transformers: no test asks the hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
