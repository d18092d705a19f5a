"""What this package adds to a node. No __init__.py stands beside this file, and it imports little."""

from house_rules.directory import Directory
from house_rules.lines import LinesAdapter
from house_rules.offline import OfflinePush
from house_rules.words import WordGuard

directory = Directory()
words = WordGuard({"darn", "heck"})
offline = OfflinePush()
lines = LinesAdapter()
