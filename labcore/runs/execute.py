"""The command of batch jobs submitted by earlier versions; see labcore.campaigns.execute."""

import sys

from labcore.campaigns.execute import main

if __name__ == "__main__":
    sys.exit(main())
