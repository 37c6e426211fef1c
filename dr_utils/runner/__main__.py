import sys

from dr_utils.runner import main

sys.exit(main())
