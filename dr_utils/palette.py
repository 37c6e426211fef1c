"""Seaborn's palette "colorblind", told apart with any colour vision. Here, as seaborn takes seconds to import."""

PALETTE = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9")
